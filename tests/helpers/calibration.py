"""Helpers of the solver's tests: correlated inputs with outlier channels, models that have them, calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from q3edge.calibration.layers import layerwise
from q3edge.calibration.layers.layer import LayerSolver
from q3edge.calibration.layers.layerwise import LayerwiseCalibration
from q3edge.calibration.layers.rounded import LayerResult
from q3edge.calibration.layers.streams import StateStream
from q3edge.calibration.layers.tables import solve_head
from q3edge.calibration.layers.work_folder import WorkFolder
from q3edge.calibration.rounding.grid import Grid
from q3edge.quantization.scheme import Scheme
from q3edge.reference.model import LogitsHead, hidden_states
from tests.helpers.models import InMemoryWeights

Schemes = Mapping[str, Scheme | None]


def correlated_inputs(tokens: int, width: int, seed: int = 0, *, outliers: int = 0) -> torch.Tensor:
    """Inputs float64 [tokens, width]: correlated channels of uneven strength, the first `outliers` 20 times larger."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width, width)) * rng.uniform(0.1, 2, width) + 2 * np.eye(width)
    inputs = rng.standard_normal((tokens, width)) @ mixing / width**0.5
    inputs[:, :outliers] *= 20
    return torch.from_numpy(inputs)


def gaussian_weights(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """Random weights float32 [rows, width], as large as a layer's usually are."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32) * 0.05)


def output_loss(weights: torch.Tensor, values: torch.Tensor, hessian: torch.Tensor) -> float:
    """Squared output error tr((W - V) H (W - V)^T), in float64."""
    error = weights.double() - values.double()
    return float(((error @ hessian.double()) * error).sum())


def in_float64(grid: Grid) -> Grid:
    """The same grid, in float64."""
    return Grid(
        grid.scales.double(),
        grid.zero_points.double(),
        None if grid.channel_scale is None else grid.channel_scale.double(),
    )


def log_probabilities(source: InMemoryWeights, token_ids: NDArray[np.int64]) -> torch.Tensor:
    """Log-probabilities of every next token, float64 [sequences * length, V]."""
    states = hidden_states(source, token_ids).flatten(0, 1)
    return LogitsHead(source).logits(states).double().log_softmax(-1)


def kl(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Mean KL of `found` from `expected`, both log-probabilities."""
    return float((expected.exp() * (expected - found)).sum(-1).mean())


def outlier_model(seed: int = 0, **overrides: Any) -> InMemoryWeights:
    """A random model in which a few channels are far stronger than the others, at the input of every input group."""
    source = InMemoryWeights.random(seed, **overrides)
    for name in source.tensors:
        values = source.read(name)
        if name.endswith(("input_layernorm.weight", "post_attention_layernorm.weight", "v_proj.weight")):
            values[3::16] *= 8
        elif name.endswith("up_proj.weight"):
            values[5::32] *= 6
    return source


def linear_schemes(source: InMemoryWeights, scheme: Scheme | None, *, keep_float: tuple[str, ...] = ()) -> Schemes:
    """Schemes: `scheme` for every matrix of the layers whose name has none of `keep_float`; all else stays float."""
    return {
        name: scheme if "_proj" in name and not any(part in name for part in keep_float) else None
        for name in source.tensors
    }


def random_tokens(sequences: int, length: int, vocab: int = 320, seed: int = 0) -> NDArray[np.int64]:
    """Random token ids [sequences, length]."""
    return np.random.default_rng(seed).integers(0, vocab, (sequences, length))


def calibrate(
    source: InMemoryWeights,
    schemes: Schemes,
    token_ids: NDArray[np.int64],
    folder: Path,
    *,
    bfloat16: bool = False,
    reconstruct: bool = False,
) -> tuple[list[LayerResult], torch.Tensor]:
    """Calibrate in the work folder `folder`, which stays.

    Returns the results of layers and head, and the hidden states after the last layer, float32 [sequences, length, H].
    """
    with WorkFolder(folder, {"test": "1"}) as journal:
        calibration = LayerwiseCalibration(
            source, schemes, token_ids, journal, bfloat16=bfloat16, reconstruct=reconstruct
        )
        stream = calibration.run()
        states = stream.read(slice(0, len(token_ids)))
        stream.close()
        return list(calibration.results()), states


def rounded_model(source: InMemoryWeights, results: list[LayerResult]) -> InMemoryWeights:
    """The model with the tensors that calibration found in place of the original ones."""
    tensors: dict[str, Any] = dict(source.tensors)
    for result in results:
        tensors |= {**result.tensors, **result.floats}
    return InMemoryWeights(source.config, tensors)


def result_bytes(results: list[LayerResult]) -> dict[str, Any]:
    """All content of the results, in a form that == compares bit for bit."""
    found: dict[str, Any] = {}
    for result in results:
        for name, tensor in result.tensors.items():
            zero_points = None if tensor.zero_points is None else tensor.zero_points.tobytes()
            found[name] = (tensor.codes.tobytes(), tensor.scales.tobytes(), zero_points, tensor.scheme)
        found |= {f"{name} float": values.tobytes() for name, values in result.floats.items()}
        found |= {f"{name} report": report for name, report in result.reports.items()}
        found |= {f"{name} reconstruction": result.reconstruction for name in result.tensors}
    return found


def stored_states(stream: StateStream, parts: list[slice]) -> list[torch.Tensor]:
    """Values of a stream, read part by part."""
    return [stream.read(part) for part in parts]


class Counted:
    """A progress listener that counts."""

    def __init__(self) -> None:
        self.total, self.moves = 0, list[int]()

    @property
    def done(self) -> int:
        return sum(self.moves)

    def task(self, _label: str, total: int) -> Counted:
        self.total += total
        return self

    def note(self, _text: str) -> None:
        return None

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, count: int) -> None:
        self.moves.append(count)


class Killed(BaseException):
    """The end of a process, as an exception."""


def solver_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """List that the number of every layer solved from now on is added to; the head counts as one after the last."""
    calls: list[int] = []
    original, original_head = LayerSolver.__init__, solve_head

    def counting(self: LayerSolver, source: Any, layer: int, *rest: Any, **named: Any) -> None:
        calls.append(layer)
        original(self, source, layer, *rest, **named)

    def counting_head(source: Any, *rest: Any) -> Any:
        calls.append(source.config.num_hidden_layers)
        return original_head(source, *rest)

    monkeypatch.setattr(LayerSolver, "__init__", counting)
    monkeypatch.setattr(layerwise, "solve_head", counting_head)
    return calls


@contextmanager
def killed_after_the_first_layer() -> Iterator[None]:
    """Context in which a calibration dies once its first layer is durable."""
    save = WorkFolder.save

    def then_die(journal: WorkFolder, *arguments: Any) -> None:
        save(journal, *arguments)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkFolder, "save", then_die)
        with pytest.raises(Killed):
            yield


def flipped(content: bytes, position: int) -> bytes:
    """`content` with one bit of the byte at `position` changed."""
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
