"""Schemes refuse what no kernel runs, and count their bytes as they are stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.errors import UsageError
from q3edge.quantization.scheme import GROUP_SIZES, Scheme
from q3edge.quantization.tensor import QuantizedTensor

SCALES = st.sampled_from(["int8", "float16"])
ANY_SCHEME = st.builds(
    Scheme, st.sampled_from([2, 4, 8]), st.sampled_from(GROUP_SIZES), st.booleans(), st.just("float"), SCALES
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 32), "bits = 3: expected 2, 4 or 8"),
        ((4, 48), "group_size = 48: expected one of 16, 32, 64, 128, 256"),
        ((4, None), "group_size = None"),
        ((4, 32, True, "int4"), "activations = 'int4'"),
        ((8, 32, True, "int8_per_token"), "one scale per row"),
        ((4, 32, True, "float", "float8"), "scales = 'float8': expected 'int8', 'float16' or 'float32'"),
    ],
)
def test_invalid_schemes_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Scheme(*arguments)  # type: ignore[arg-type]


def test_bits_per_weight_of_the_usual_formats() -> None:
    row = 8 / 1024  # its exponent
    assert Scheme(4, 32).bits_per_weight(1024) == 4.25 + row
    assert Scheme(4, 32, symmetric=False).bits_per_weight(1024) == 4.375 + row
    assert Scheme(4, 128).bits_per_weight(1024) == 4.0625 + row
    assert Scheme(8, 32).bits_per_weight(1024) == 8.25 + row
    assert Scheme(8, None, activations="int8_per_token").bits_per_weight(1024) == 8 + 16 / 1024
    assert Scheme(4, 32, scales="float16").bits_per_weight(1024) == 4.5
    assert Scheme(4, 128, symmetric=False, scales="float16").bits_per_weight(1024) == 4 + 20 / 128


def test_one_scale_a_row_is_always_float16() -> None:
    per_row = Scheme(8, None, activations="int8_per_token")
    assert per_row.scales == "float16"
    assert per_row == Scheme(8, None, activations="int8_per_token", scales="float16")
    assert "scales" not in per_row.to_json()


@pytest.mark.parametrize(
    ("scheme", "label"),
    [
        (Scheme(4, 32, symmetric=False), "int4-g32-asym"),
        (Scheme(4, 32, symmetric=False, scales="float16"), "int4-g32-asym-f16"),
        (Scheme(8, 128, scales="float16"), "int8-g128-f16"),
        (Scheme(8, None, activations="int8_per_token"), "int8-channel-a8"),
    ],
)
def test_labels(scheme: Scheme, label: str) -> None:
    assert scheme.label() == label


@given(ANY_SCHEME)
def test_json_reads_back_and_states_scales_only_where_they_are_not_the_default(scheme: Scheme) -> None:
    assert Scheme(**scheme.to_json()) == scheme
    assert ("scales" in scheme.to_json()) == (scheme.scales == "float16")


def test_a_group_that_does_not_divide_the_width_lists_those_that_do() -> None:
    with pytest.raises(UsageError, match="group size 128 does not divide the width 576; valid sizes: 16, 32, 64"):
        Scheme(4, 128).groups(576)


@given(ANY_SCHEME, st.integers(1, 9), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_stored_bytes_agree_with_bits_per_weight(scheme: Scheme, rows: int, blocks: int) -> None:
    width = 256 * blocks
    exact = rows * width * scheme.bits_per_weight(width) / 8
    padding = scheme.stored_bytes(rows, width) - exact
    assert 0 <= round(padding, 6) < rows  # zero points of a row are padded to a whole byte


@given(ANY_SCHEME, st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_dequantize_equals_the_definition(scheme: Scheme, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, size = 512, scheme.group_size or 512
    shape = (rows, width // size)
    zero_points = None if scheme.symmetric else rng.integers(0, scheme.max_code + 1, shape).astype(np.uint8)
    codes = rng.integers(0, scheme.max_code + 1, (rows, width)).astype(np.uint8)
    tensor = QuantizedTensor(codes, rng.standard_normal(shape).astype(np.float16), zero_points, scheme)
    values = tensor.dequantize()
    for row, column in zip(rng.integers(0, rows, 20), rng.integers(0, width, 20)):
        group = column // size
        zero = scheme.implicit_zero_point if zero_points is None else int(zero_points[row, group])
        expected = np.float32(int(codes[row, column]) - zero) * np.float32(tensor.scales[row, group])
        assert values[row, column] == expected


def test_tensors_check_their_parts() -> None:
    codes, scales = np.zeros((2, 64), np.uint8), np.ones((2, 2), np.float16)
    with pytest.raises(ValueError, match="zero_points must be given exactly when"):
        QuantizedTensor(codes, scales, None, Scheme(4, 32, symmetric=False))
    with pytest.raises(ValueError, match=r"scales \(2, 2\): expected \(2, 4\)"):
        QuantizedTensor(codes, scales, None, Scheme(4, 16))
    with pytest.raises(TypeError, match="expected uint8 / float16"):
        QuantizedTensor(codes, scales.astype(np.float32), None, Scheme(4, 32))
