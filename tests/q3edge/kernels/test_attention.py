"""Attention kernels of each instruction set that this CPU has: against float64, and against onnxruntime's operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from q3edge.kernels.library import DOMAIN, LIBRARY, library
from tests.helpers.attention import Attention, Watched, attend, attention, expected

FOUND = library()
SETS = FOUND.instruction_sets if FOUND else ()
pytestmark = pytest.mark.skipif(FOUND is None, reason="the kernels were not built here")


def run(call: Attention, instruction_set: str, threads: int = 1) -> tuple[Attention, Any]:
    """Run a call on copies of its cache; returns these and the context."""
    copy = call.copied()
    assert FOUND is not None
    return copy, attend(FOUND, instruction_set, copy, threads)


def check(call: Attention, done: Attention, context: Any) -> None:
    """Hold a result against float64: context, what is stored, and that nothing else is."""
    for row, count in enumerate(call.counts):
        start, end = call.lengths(row)
        assert not context[row, count:].any()
        if not count:
            start = end = 0
        for before, after in ((call.keys, done.keys), (call.values, done.values)):
            for part in (slice(0, start), slice(end, None)):
                np.testing.assert_array_equal(before[row, :, part], after[row, :, part])
        if not count:
            continue
        want = expected(call, row, (done.keys, done.values))
        np.testing.assert_allclose(context[row, :count], want.context, rtol=0, atol=want.tolerance)
        scales = (call.key_scale, call.value_scale)
        for new, cache, scale in zip((want.keys, want.values), (done.keys, done.values), scales, strict=True):
            stored = cache[row, :, start:end].transpose(1, 0, 2).astype(np.float64)
            if scale is None:
                np.testing.assert_allclose(stored, new, rtol=0, atol=4 * 2.0**-24 * np.abs(new).max())
            else:  # the nearest code, of two where the value lies between them
                assert np.abs(stored - np.clip(new / scale, -128, 127)).max() <= 0.5 + 1e-4


@st.composite
def calls(draw: st.DrawFn) -> Attention:
    """Draw a call: few and many tokens, idle rows, padding, full caches, odd sizes."""
    tokens = draw(st.sampled_from([1, 1, 2, 5, 16, 17, 40, 130]))
    batch = draw(st.integers(1, 4))
    counts = draw(st.lists(st.integers(0, tokens), min_size=batch, max_size=batch))
    capacity = tokens + draw(st.sampled_from([0, 1, 30, 511, 1200]))
    kv_heads = draw(st.integers(1, 3))
    return attention(
        np.random.default_rng(draw(st.integers(0, 1000))),
        lengths=[draw(st.integers(max(count, 1), capacity)) for count in counts],
        counts=counts,
        tokens=tokens,
        capacity=capacity,
        heads=kv_heads * draw(st.sampled_from([1, 2, 3, 4, 8])),
        kv_heads=kv_heads,
        size=draw(st.sampled_from([2, 6, 16, 20, 64, 80, 96, 128])),
        int8=draw(st.booleans()),
    )


@pytest.mark.parametrize("instruction_set", SETS)
@settings(max_examples=60)
@given(call=calls())
def test_any_call_gives_what_float64_gives_and_the_same_bits_on_any_number_of_threads(
    instruction_set: str, call: Attention
) -> None:
    done, context = run(call, instruction_set)
    check(call, done, context)
    for threads in (2, 5):
        again, same = run(call, instruction_set, threads)
        assert same.tobytes() == context.tobytes()
        assert (again.keys.tobytes(), again.values.tobytes()) == (done.keys.tobytes(), done.values.tobytes())


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("int8", [False, True])
def test_long_pasts_are_cut_into_pieces_that_depend_on_no_threads(instruction_set: str, int8: bool) -> None:
    call = attention(
        np.random.default_rng(3), lengths=[9000, 513], counts=[1, 1], tokens=1, capacity=9001, heads=4, kv_heads=2,
        size=16, int8=int8,
    )  # fmt: skip
    done, context = run(call, instruction_set)
    check(call, done, context)
    assert all(run(call, instruction_set, threads)[1].tobytes() == context.tobytes() for threads in (2, 3, 8))


@pytest.mark.parametrize("instruction_set", SETS)
@settings(max_examples=30)
@given(call=calls())
def test_a_row_does_not_depend_on_its_neighbours_or_its_padding(instruction_set: str, call: Attention) -> None:
    _, context = run(call, instruction_set, 2)
    for row, count in enumerate(call.counts):
        if count:
            _, alone = run(call.row(row), instruction_set)
            assert alone[0].tobytes() == context[row, :count].tobytes()


def packed(call: Attention, order: Sequence[int], between: int) -> Attention:
    """The same rows in one, in another order, with so many tokens of padding behind each."""
    places: dict[str, list[Any]] = {"query": [], "key": [], "value": []}
    starts = np.zeros(len(order), np.int32)
    for row in order:
        starts[row] = sum(map(len, places["query"]))
        for name, parts in places.items():
            tokens = getattr(call, name)[row, : call.counts[row]]
            parts += [tokens, np.full((between, tokens.shape[1]), np.nan, np.float32)]
    new: dict[str, Any] = {name: np.concatenate(parts)[None] for name, parts in places.items()}
    return replace(call, **new, starts=starts)


@pytest.mark.parametrize("instruction_set", SETS)
@settings(max_examples=60)
@given(call=calls(), random=st.randoms(use_true_random=False), between=st.sampled_from([0, 0, 3]))
def test_rows_that_lie_anywhere_among_the_tokens_give_the_same_bits(
    instruction_set: str, call: Attention, random: Random, between: int
) -> None:
    order = list(range(len(call.counts)))
    random.shuffle(order)
    other = packed(call, order, between)
    if not other.query.size:
        return
    done, context = run(call, instruction_set)
    again, found = run(other, instruction_set, 2)
    assert other.starts is not None
    assert (again.keys.tobytes(), again.values.tobytes()) == (done.keys.tobytes(), done.values.tobytes())
    for row, (start, count) in enumerate(zip(other.starts, call.counts, strict=True)):
        assert found[0, start : start + count].tobytes() == context[row, :count].tobytes()
        assert not found[0, start + count : start + count + between].any()


@pytest.mark.parametrize("instruction_set", SETS)
@settings(max_examples=40)
@given(call=calls())
def test_nothing_outside_an_array_is_read_or_written(instruction_set: str, call: Attention) -> None:
    memory = Watched()
    watched = memory.call(call)
    inputs = ("query", "key", "value", "seqlens", "counts", "cos", "sin")
    assert FOUND is not None
    context = attend(FOUND, instruction_set, watched, 2, memory.copy(np.full_like(call.query, np.nan)))
    assert memory.untouched()
    assert all(np.array_equal(getattr(watched, name), getattr(call, name)) for name in inputs)
    assert np.isfinite(context).all()  # what a float32 cache does not hold is NaN


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_scores_of_any_size_and_values_that_are_no_numbers(instruction_set: str, tokens: int) -> None:
    call = attention(
        np.random.default_rng(5), lengths=[70, 80], counts=[tokens] * 2, tokens=tokens, capacity=90, heads=4,
        kv_heads=2, size=16, int8=False,
    )  # fmt: skip
    call.query[:] *= 1e12  # each query sees only the key of its largest score
    done, context = run(call, instruction_set)
    assert np.isfinite(context).all()
    want = expected(call, 0, (done.keys, done.values)).context
    assert np.abs(context[0] - want).max() <= 1e-6 * np.abs(done.values[0, :, :70]).max()
    call.query[1, -1, :16] = np.nan
    _, context = run(call, instruction_set)
    assert np.isnan(context[1, -1, :16]).all()
    assert np.isnan(context).sum() == 16


BAD = (
    ({"seqlens": [39, 300]}, "longer than the cache"),
    ({"seqlens": [1, 40]}, "shorter than its new tokens"),
    ({"counts": [3, 4]}, "does not have"),
    ({"counts": [-1, 3]}, "does not have"),
    ({"starts": [0, 2]}, "overlap"),
    ({"starts": [3, 1]}, "overlap"),
    ({"starts": [-1, 3]}, "end behind the input"),
    ({"starts": [0, 4]}, "end behind the input"),
    ({"heads": 3}, "multiple"),
    ({"cos": np.zeros((20, 4), np.float32)}, "rotary"),
)


@pytest.mark.parametrize(("change", "message"), BAD)
def test_lengths_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    call = attention(
        np.random.default_rng(0), lengths=[40, 41], counts=[3, 3], tokens=3, capacity=60, heads=4, kv_heads=2, size=8,
        int8=False,
    )  # fmt: skip
    bad: dict[str, Any] = {
        name: np.array(value, np.int32) if isinstance(value, list) else value for name, value in change.items()
    }
    with pytest.raises(ValueError, match=message):
        run(replace(call, **bad), SETS[0])


def graph(call: Attention, ours: bool, threads: int = 2) -> bytes:
    """Model of one operator over the inputs of a call: ours, or onnxruntime's."""
    cache = TensorProto.INT8 if call.key_scale is not None else TensorProto.FLOAT
    size = {"query": call.query, "key": call.key, "value": call.value}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in size.items()]
    inputs += [helper.make_tensor_value_info(name, TensorProto.INT32, call.counts.shape) for name in ("lens", "counts")]
    past = [helper.make_tensor_value_info(f"past_{name}", cache, call.keys.shape) for name in ("key", "value")]
    outputs = [helper.make_tensor_value_info("context", TensorProto.FLOAT, call.query.shape)]
    outputs += [helper.make_tensor_value_info(f"present_{name}", cache, call.keys.shape) for name in ("key", "value")]
    constants = {"cos": call.cos, "sin": call.sin, "total": np.array(call.seqlens.max() + 1, np.int32)}
    scales = ["", ""]
    if call.key_scale is not None and call.value_scale is not None:
        scales = ["key_scale", "value_scale"]
        constants |= {"key_scale": call.key_scale[None, :, None], "value_scale": call.value_scale[None, :, None]}
    names = ["query", "key", "value", "past_key", "past_value", "lens"]
    if call.starts is not None:
        inputs.append(helper.make_tensor_value_info("starts", TensorProto.INT32, call.starts.shape))
    heads = {"num_heads": call.heads, "kv_num_heads": call.keys.shape[1]}
    produced = [value.name for value in outputs]
    if ours:
        del constants["total"]
        names += ["counts", "starts" if call.starts is not None else "", "cos", "sin", *filter(None, scales)]
        node = helper.make_node(
            "Attention", names, produced, domain=DOMAIN, instruction_set=0, threads=threads, **heads
        )
    else:
        kind: dict[str, Any] = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
        names += ["total", "cos", "sin", "", "", "", *scales, "", "", "counts"]
        node = helper.make_node(
            "GroupQueryAttention", names, produced, domain="com.microsoft", do_rotary=1, **heads,
            **(kind if scales[0] else {}),
        )  # fmt: skip
    tensors = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()]
    versions = [
        helper.make_opsetid(domain, version) for domain, version in (("", 21), ("com.microsoft", 1), (DOMAIN, 1))
    ]
    model = helper.make_model(
        helper.make_graph([node], "attention", inputs + past, outputs, tensors), opset_imports=versions, ir_version=10
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def in_onnxruntime(call: Attention, ours: bool, *, bound: bool = True) -> tuple[Any, Any, Any]:
    """Run the operator; returns context, keys and values. bound: past and present lie in the same memory."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.register_custom_ops_library(str(LIBRARY))
    session = ort.InferenceSession(graph(call, ours), options, providers=["CPUExecutionProvider"])
    new = {"query": call.query, "key": call.key, "value": call.value, "lens": call.seqlens, "counts": call.counts}
    if call.starts is not None:
        new["starts"] = call.starts
    if not bound:
        found = session.run(None, {**new, "past_key": call.keys, "past_value": call.values})
        return found[0], found[1], found[2]
    done, binding, context = call.copied(), session.io_binding(), np.zeros_like(call.query)
    for name, array in {**new, "past_key": done.keys, "past_value": done.values}.items():
        binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    for name, array in (("context", context), ("present_key", done.keys), ("present_value", done.values)):
        binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    session.run_with_iobinding(binding)
    return context, done.keys, done.values


def of_qwen3(seed: int, lengths: Sequence[int], counts: Sequence[int], int8: bool) -> Attention:
    """Call of heads as in Qwen3."""
    return attention(
        np.random.default_rng(seed), lengths=lengths, counts=counts, tokens=max(counts), capacity=700, heads=8,
        kv_heads=4, size=128, int8=int8,
    )  # fmt: skip


@pytest.mark.parametrize(("lengths", "counts"), [([1], [1]), ([600], [1]), ([40, 700, 3], [1, 1, 1]), ([300], [60])])
@pytest.mark.parametrize("int8", [False, True])
def test_onnxruntimes_operator_gives_the_same(lengths: list[int], counts: list[int], int8: bool) -> None:
    if int8 and max(counts) > 16:
        counts = [16]  # with more, ours reads the new tokens unrounded
    call = of_qwen3(len(lengths), lengths, counts, int8)
    call = replace(call, keys=np.nan_to_num(call.keys), values=np.nan_to_num(call.values))
    ours, theirs = in_onnxruntime(call, True), in_onnxruntime(call, False)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-5)
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        if int8:  # but for ties
            differences = np.abs(mine.astype(int) - other)
            assert differences.max() <= 1
            assert (differences > 0).sum() <= 2
        else:
            np.testing.assert_allclose(mine, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("int8", [False, True])
def test_a_present_elsewhere_is_a_copy_of_the_past_with_the_new_tokens(int8: bool) -> None:
    call = of_qwen3(7, [50, 9, 20], [3, 0, 2], int8)
    bound, apart = in_onnxruntime(call, True), in_onnxruntime(call, True, bound=False)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(bound, apart, strict=True))
    done = replace(call, keys=bound[1], values=bound[2])
    check(call, done, bound[0])


@pytest.mark.parametrize("int8", [False, True])
def test_the_operator_takes_rows_that_lie_anywhere(int8: bool) -> None:
    call = of_qwen3(8, [50, 9, 90, 20], [3, 0, 20, 1], int8)
    other = packed(call, [2, 3, 1, 0], 0)
    expected, found = in_onnxruntime(call, True), in_onnxruntime(other, True)
    assert other.query.shape[:2] == (1, 24)
    for row, start, count in ((2, 0, 20), (3, 20, 1), (0, 21, 3)):
        assert found[0][0, start : start + count].tobytes() == expected[0][row, :count].tobytes()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(expected[1:], found[1:], strict=True))
    with pytest.raises(Exception, match="not as many rows"):
        in_onnxruntime(replace(other, starts=None), True)


def test_onnxruntime_raises_what_the_operator_refuses() -> None:
    call = of_qwen3(1, [50], [3], False)
    with pytest.raises(Exception, match="longer than the cache"):
        in_onnxruntime(replace(call, seqlens=np.array([700], np.int32)), True)
