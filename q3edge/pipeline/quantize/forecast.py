"""Forecast of the cost of a calibration: seconds, memory, disk. Pure functions of shapes and speeds.

Disk is exact up to headers. Seconds and memory are sums over what the code does, with factors fitted on a 2-core AVX2
machine; seconds scale with this machine's speed. benchmarks/calibration_cost.py compares all three with measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.layer import Layer, layers_of
from q3edge.architecture.tensors import count_weights, of_head, tensor_shapes
from q3edge.calibration.layers.experts import SAMPLED_TOKENS
from q3edge.calibration.layers.kv_scales import TOKENS as KV_SCALE_TOKENS
from q3edge.calibration.layers.layerwise import HELD_OUT
from q3edge.calibration.layers.predicted_work import GroupWork, LayerWork, training_work
from q3edge.calibration.layers.streams import Tokens
from q3edge.calibration.training.reconstruct import EPOCHS as RECONSTRUCTION_EPOCHS
from q3edge.calibration.training.trained_layer import BATCH_TOKENS
from q3edge.calibration.training.tune import EPOCHS
from q3edge.checkpoint.compressed_tensors.layout import stored_tensors
from q3edge.checkpoint.safetensors.file import NUMPY_DTYPES
from q3edge.pipeline.predictions import CalibrationWork, calibration_seconds
from q3edge.quantization.scheme import Scheme
from q3edge.reference.model import MAX_TABLE_BYTES

# Seconds. Everything is counted in floating-point operations of matrix products.
_WRITE_WEIGHT = 1_500  # by weight of the model: hashing, rounding to nearest, packing
_TUNE = 1.6  # by operation: gradients, and scales folded into the weights anew for every batch
_CHECKS = 4  # of the held-out rows in each epoch

# Bytes.
_PROCESS_BYTES = 330e6  # Python, torch, onnxruntime, tokenizer and what they allocate
_AUTOGRAD_BYTES = 70e6
_SLACK = 1.15  # of what is computed: the allocator's holes
_HESSIANS = 6  # [K, K] at once while one is factored
_SOLVED_HESSIANS = 3  # [K, K] at once while matrices are solved
_SOLVED_ROW_FLOATS = 14 * 512  # by channel, for every thread
_GROUP_PAIR_FLOATS = 2 * 512  # by pair of groups of a row, for every thread
_RESULT_FLOATS = 1.5  # by weight of the matrix that is solved: all candidates' codes
_WAITING = 3  # results by thread
_UNEVEN = 3  # tokens of the busiest expert by those of the mean
_PARAMETER_FLOATS = 6  # by trained value: optimizer, best state so far
_TRAINED_WEIGHTS = 4  # by weight of a layer that is reconstructed
_GRADIENT_WEIGHTS = 2.5  # by weight of a layer, for every thread, beside the weights themselves and their steps
_LOGITS_FLOATS = 4 * 128  # by token of the vocabulary
_SAVED_WIDTHS = 6  # of the MLP's width that back-propagation keeps for a token
_FILE_BYTES = 1024  # by tensor: headers and reports in the work folder
_SIDE_BYTES = 16 << 20  # tokenizer, manifest


@dataclass(frozen=True, slots=True)
class Machine:
    """Speed of a machine: float32 matrix products in operations/s (`matrix_speed`).

    threads: of torch. bfloat16: whether forward passes are computed in it.
    """

    speed: float
    threads: int
    bfloat16: bool


@dataclass(frozen=True, slots=True)
class Forecast:
    """Wall seconds; peak bytes of the process; peak bytes on the output's disk, work folder and output together."""

    seconds: float
    ram_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Work of a calibration: a model, its schemes by tensor, and tokens [sequences, length].

    reconstructed: layers are trained one by one; tuned: scales and norms of all layers are trained at the end.
    exported: an ONNX model is written while the quantized checkpoint is still there.
    int8_cache: the quantized model runs once more, to calibrate the scales of its KV cache.
    """

    config: Qwen3Config
    schemes: Mapping[str, Scheme | None]
    sequences: int
    length: int
    _: KW_ONLY
    reconstructed: bool = False
    tuned: bool = False
    exported: bool = False
    int8_cache: bool = False

    @property
    def tokens(self) -> int:
        """Number of all tokens, held-out ones included."""
        return self.sequences * self.length

    @property
    def keeps_float_states(self) -> bool:
        """Whether the float model's hidden states are computed too: to train towards, or to compare the routing."""
        return self.reconstructed or self.config.moe is not None


@dataclass(frozen=True, slots=True)
class _Matrix:
    """One matrix [rows, width]; scheme None: it stays float."""

    rows: int
    width: int
    scheme: Scheme | None
    is_of_expert: bool = False

    @property
    def weights(self) -> int:
        return self.rows * self.width

    @property
    def groups(self) -> int:
        """Number of groups in each row; 0 if the matrix stays float."""
        return self.scheme.groups(self.width) if self.scheme else 0


_InputGroups = list[list[_Matrix]]  # of one layer: the matrices of each input group


def forecast(work: Workload, machine: Machine, *, finished: int = 0) -> Forecast:
    """Forecast the remaining seconds where `finished` layers are done; memory and disk are those of a whole run."""
    left = calibration_work(work, finished=finished)
    seconds = calibration_seconds(left, machine.speed, bfloat16=machine.bfloat16)
    return Forecast(seconds, ram_bytes(work, machine.threads), disk_bytes(work))


def disk_bytes(work: Workload) -> int:
    """Peak bytes of the work folder and the output beside it."""
    copies = 2 if work.tuned or work.exported else 1
    return max(work_folder_bytes(work), _finished_bytes(work) + copies * _checkpoint_bytes(work)) + _SIDE_BYTES


def work_folder_bytes(work: Workload) -> int:
    """Peak bytes of the work folder: finished layers and the last one's hidden states, or all layers and the head."""
    config, layers = work.config, _work_folder_bytes(work)
    hidden, boundary = _stream_bytes(work, config.hidden_size), _boundary_bytes(work)
    attended = boundary + hidden + _stream_bytes(work, config.num_attention_heads * config.head_dim)
    widest = config.intermediate_size if config.moe is None else 2 * config.hidden_size  # or two sums of experts
    written = boundary + 2 * hidden + _stream_bytes(work, widest)
    last = sum(layers[:-1]) + max(attended, written)
    return max(last, sum(layers) + 2 * boundary, _finished_bytes(work))


def _finished_bytes(work: Workload) -> int:
    """Bytes of the work folder when all layers and the head are solved."""
    scheme = _head(work).scheme
    shape = work.config.vocab_size, work.config.hidden_size
    head = 0 if scheme is None else _unpacked_bytes(shape, scheme) + _FILE_BYTES
    return sum(_work_folder_bytes(work)) + head + _boundary_bytes(work)


def _boundary_bytes(work: Workload) -> int:
    """Bytes of the hidden states between two layers, doubled where the float model's are kept too."""
    return (1 + work.keeps_float_states) * _stream_bytes(work, work.config.hidden_size)


def _stream_bytes(work: Workload, width: int) -> int:
    return 4 * work.tokens * width


def _work_folder_bytes(work: Workload) -> list[int]:
    """Bytes of every layer's file: unpacked codes, scales, zero points, and float tensors that may have been scaled."""
    found = []
    shapes = tensor_shapes(work.config)
    for layer in layers_of(work.config):
        names = [layer.name(field) for field in layer.tensors]
        solved = any(work.schemes[name] is not None for name in names)
        stored = sum(_unpacked_bytes(shapes[name], work.schemes[name]) + _FILE_BYTES for name in names)
        found.append(stored if solved else _FILE_BYTES)
    return found


def _unpacked_bytes(shape: tuple[int, ...], scheme: Scheme | None) -> int:
    if scheme is None:
        return 4 * math.prod(shape)
    per_group = 2 if scheme.symmetric else 3
    return shape[0] * (shape[1] + per_group * scheme.groups(shape[1]))


def _checkpoint_bytes(work: Workload) -> int:
    """Bytes of the quantized checkpoint's weights, with every float tensor as float32, the widest it can be."""
    total = 0
    for name, shape in tensor_shapes(work.config).items():
        scheme = work.schemes[name]
        if scheme is None:
            total += 4 * math.prod(shape)
        else:
            parts = stored_tensors(name, shape, scheme, work.config.tie_word_embeddings).values()
            total += sum(math.prod(part) * NUMPY_DTYPES[dtype].itemsize for dtype, part in parts)
    return total


def _input_groups(work: Workload, layer: int) -> _InputGroups:
    described = Layer.of(work.config, layer)

    def matrix(field: str) -> _Matrix:
        rows, width = described.tensors[field].shape
        return _Matrix(rows, width, work.schemes[described.name(field)], field in described.of_experts)

    return [[matrix(field) for field in group.matrices] for group in described.groups]


def _head(work: Workload) -> _Matrix:
    return _Matrix(work.config.vocab_size, work.config.hidden_size, of_head(work.config, work.schemes))


def calibration_work(work: Workload, *, finished: int = 0) -> CalibrationWork:
    """Operations that are left of a calibration where `finished` layers are done."""
    tokens = Tokens(work.sequences, work.length, 0, bfloat16=False)
    layers = [LayerWork.of(work.config, layer, work.schemes, tokens) for layer in layers_of(work.config)]
    forward = [layer.forward for layer in layers]
    groups = [group for layer in layers[finished:] for group in layer.groups]
    head = GroupWork(work.config.hidden_size, 0 if _head(work).scheme is None else work.config.vocab_size)
    solving = sum(group.moments(work.tokens) + group.choosing + group.solving for group in (*groups, head))
    calibrating = float(sum(forward[finished:]))
    if work.reconstructed:
        calibrating += training_work(calibrating, HELD_OUT, RECONSTRUCTION_EPOCHS)
    elif work.keeps_float_states:
        calibrating *= 2
    writing = _WRITE_WEIGHT * count_weights(work.config)
    tuning = _TUNE * _tuning_operations(work, sum(forward)) if work.tuned else 0.0
    scales = min(1.0, KV_SCALE_TOKENS / work.tokens) * sum(forward) if work.int8_cache else 0.0
    return CalibrationWork(calibrating, solving + writing + tuning + scales)


def _tuning_operations(work: Workload, forward: float) -> float:
    """Operations of tuning: the float model once; per epoch training rows forward twice and back, and the checks."""
    head = 2 * work.tokens * work.config.vocab_size * work.config.hidden_size
    epoch = (1 - HELD_OUT) * (4 * forward + 3 * head) + HELD_OUT * _CHECKS * (forward + 2 * head)
    return forward + EPOCHS * epoch


def ram_bytes(work: Workload, threads: int) -> int:
    """Peak bytes of the process that calibrates with so many threads."""
    layers = [_input_groups(work, layer) for layer in range(work.config.num_hidden_layers)]
    calibrating = max(_calibrating_floats(work, groups, threads) for groups in layers)
    found = _SLACK * 4 * max(calibrating, _solving_floats(_head(work), threads))
    if work.reconstructed:
        training = max(_reconstruction_floats(work, groups, threads) for groups in layers)
        found = max(found, _AUTOGRAD_BYTES + _SLACK * 4 * training)
    if work.tuned:
        found = max(found, _AUTOGRAD_BYTES + _SLACK * 4 * _tuning_floats(work, layers, threads))
    return int(_PROCESS_BYTES + found)


def _calibrating_floats(work: Workload, groups: _InputGroups, threads: int) -> float:
    """Peak float32 numbers of an input group: weights not yet released, second moments, solving, and activations.

    Activations are freed before solving begins, but the allocator keeps their memory. Of experts each thread has one.
    """
    part = max(p.stop - p.start for p in Tokens(work.sequences, work.length, 1, False).parts) * work.length
    most = 0.0
    routed = [group for group in groups if group[0].is_of_expert]
    if routed:
        groups = [group for group in groups if not group[0].is_of_expert]
        most = _experts_floats(work, routed, threads)
    for number, group in enumerate(groups):
        alive = groups[max(0, number - 1) :]  # the input group before is released when this one is solved
        width = group[0].width
        weights = sum(matrix.weights for held in alive for matrix in held)
        activations = threads * part * (_WAITING * width + sum(matrix.rows for matrix in alive[0]))
        solving = max(2.0 * width**2, *(_solving_floats(matrix, threads) for matrix in group))
        most = max(most, weights + activations + solving)
    return most


def _experts_floats(work: Workload, groups: _InputGroups, threads: int) -> float:
    """Peak float32 numbers while a layer's experts are solved: one by each thread, and the codes of all."""
    assert work.config.moe is not None
    first, last = groups[:2]
    share = work.config.moe.num_experts_per_tok / work.config.moe.num_experts
    tokens = _UNEVEN * share * work.tokens
    kept = tokens * (first[0].width + last[0].rows)  # by every result that waits to be added
    sampled = min(work.tokens, SAMPLED_TOKENS) * last[0].width
    one = sum(matrix.weights for group in (first, last) for matrix in group)
    solving = max(_solving_floats(matrix, 1) for group in (first, last) for matrix in group)
    codes = sum(matrix.weights for group in groups for matrix in group if matrix.scheme) / 4
    each = 2 * one + solving + kept + 2 * tokens * last[0].width + sampled
    return threads * (each + _WAITING * kept) + codes + 2 * first[0].width ** 2


def _solving_floats(matrix: _Matrix, threads: int) -> float:
    """Float32 numbers while a matrix is solved: second moments, blocks of rows, all candidates; 0 if it stays float."""
    if matrix.scheme is None:
        return 0.0
    square = matrix.width**2
    blocks = threads * (_SOLVED_ROW_FLOATS * matrix.width + _GROUP_PAIR_FLOATS * matrix.groups**2)
    return max(_SOLVED_HESSIANS * square + blocks + _RESULT_FLOATS * matrix.weights, _HESSIANS * square)


def _reconstruction_floats(work: Workload, groups: _InputGroups, threads: int) -> float:
    """Float32 numbers of reconstruction: float and trained layer, gradients, scales, and a batch's activations."""
    weights = sum(matrix.weights for group in groups for matrix in group)
    values = sum(matrix.rows * matrix.groups for group in groups for matrix in group)
    batch = max(BATCH_TOKENS, work.length)
    return (
        (_TRAINED_WEIGHTS + threads * _GRADIENT_WEIGHTS) * weights
        + _PARAMETER_FLOATS * values
        + batch * _SAVED_WIDTHS * work.config.intermediate_size
    )


def _tuning_floats(work: Workload, layers: list[_InputGroups], threads: int) -> float:
    """Float32 numbers of tuning: both heads, float hidden states, trained values, and a batch in back-propagation."""
    config = work.config
    table = config.vocab_size * config.hidden_size
    heads = 2 * table if 4 * table <= MAX_TABLE_BYTES else 0
    weights = max(sum(matrix.weights for group in groups for matrix in group) for groups in layers)
    values = sum(matrix.rows * matrix.groups for groups in layers for group in groups for matrix in group)
    batch = max(BATCH_TOKENS, work.length)
    states = (work.tokens + batch * (len(layers) + 1)) * config.hidden_size
    backward = (2 + threads * _GRADIENT_WEIGHTS) * weights + batch * _SAVED_WIDTHS * config.intermediate_size
    return heads + states + _PARAMETER_FLOATS * values + max(backward, _LOGITS_FLOATS * config.vocab_size)
