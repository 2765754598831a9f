"""Facts of a mixture of experts for a report: how tokens are spread over its experts, and what it comes to in words."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from q3edge.artifact import EXPERT_LOSS
from q3edge.errors import InputError

_NAMED = 6  # experts that saw nothing are named up to so many


@dataclass(frozen=True, slots=True)
class ExpertLayer:
    """Experts of one layer, each value in the order of their numbers.

    tokens: how many were routed to each. bits: stored per weight. losses: output error, as a `TensorFact`'s; empty
    where none was measured. agreement: share of the chosen experts that the float model chooses too; None: not
    measured.
    """

    layer: int
    tokens: tuple[int, ...]
    bits: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    agreement: float | None = None

    @property
    def busiest(self) -> float:
        """Tokens of the busiest expert, over those that each would have if all had as many."""
        return max(self.tokens) * len(self.tokens) / max(1, sum(self.tokens))

    @property
    def unseen(self) -> tuple[int, ...]:
        """Numbers of the experts that no token was routed to."""
        return tuple(number for number, count in enumerate(self.tokens) if not count)


@dataclass(frozen=True, slots=True)
class ExpertFacts:
    """Layers with experts, at least one; text: what their tokens are counted on."""

    text: str
    layers: tuple[ExpertLayer, ...]

    @property
    def agreement(self) -> float | None:
        """Mean over the layers of their agreement; None where it was not measured."""
        found = [layer.agreement for layer in self.layers if layer.agreement is not None]
        return statistics.fmean(found) if found else None

    @property
    def least(self) -> ExpertLayer | None:
        """Layer whose agreement is least; None where it was not measured."""
        found = [layer for layer in self.layers if layer.agreement is not None]
        return min(found, key=lambda layer: layer.agreement or 0.0) if found else None

    @property
    def busiest(self) -> ExpertLayer:
        """Layer whose busiest expert has the most."""
        return max(self.layers, key=lambda layer: layer.busiest)

    @property
    def unseen(self) -> int:
        """Number of experts that no token was routed to, in all layers."""
        return sum(len(layer.unseen) for layer in self.layers)

    def derived(self) -> dict[str, Any]:
        """JSON object of plain values: the words, and for each layer what follows from its tokens."""
        layers = [asdict(layer) | {"busiest": layer.busiest, "unseen": len(layer.unseen)} for layer in self.layers]
        return {"words": list(self.words), "layers": layers}

    @property
    def words(self) -> tuple[str, ...]:
        """What it comes to, each a sentence: balance, experts that saw nothing, routing."""
        return tuple(_words(self))


def expert_facts(metrics: Mapping[str, Any], bits: Mapping[int, Sequence[float]]) -> ExpertFacts | None:
    """Read the facts in a manifest's metrics: of its calibration, or else its validation; None where it has neither.

    bits: of each expert, by layer. InputError: they are not as q3edge writes them.
    """
    try:
        calibrated = {int(layer): found for layer, found in metrics.get("expert_layers", {}).items()}
        routed = {found["layer"]: found for found in (metrics.get("validation") or {}).get("routing", ())}
        counted = calibrated or routed
        layers = tuple(_layer(number, counted, routed, bits.get(number, ())) for number in sorted(counted))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"q3edge.json: what it says of experts is not this q3edge's ({error}); build again") from None
    return ExpertFacts("the calibration text" if calibrated else "the build's text", layers) if layers else None


def _layer(number: int, counted: Mapping[int, Any], routed: Mapping[int, Any], bits: Sequence[float]) -> ExpertLayer:
    found = counted[number]
    losses = [found[name] for name in sorted(found) if name.endswith(EXPERT_LOSS)]
    return ExpertLayer(
        number,
        tuple(map(int, found["tokens"])),
        tuple(bits),
        tuple(statistics.fmean(of_roles) for of_roles in zip(*losses, strict=True)),
        float(routed.get(number, found)["agreement"]),
    )


def _words(facts: ExpertFacts) -> Iterator[str]:
    count = sum(len(layer.tokens) for layer in facts.layers)
    mean, most = statistics.fmean(layer.busiest for layer in facts.layers), facts.busiest
    yield (
        f"On {facts.text}, the busiest expert of a layer has {mean:.1f} times an even share of the tokens on average, "
        f"and at most {most.busiest:.1f} times, in layer {most.layer}."
    )
    if facts.unseen:
        named = [f"{number} of layer {layer.layer}" for layer in facts.layers for number in layer.unseen]
        more = " and others" if len(named) > _NAMED else ""
        yield f"{facts.unseen} of {count} experts saw no token of it: {', '.join(named[:_NAMED])}{more}."
    else:
        yield f"Each of the {count} experts saw some of it."
    if facts.agreement is not None and facts.least is not None and facts.least.agreement is not None:
        yield (
            f"{100 * facts.agreement:.1f} % of the experts that its routers choose are those of the float model, in "
            f"layer {facts.least.layer}, where fewest are, {100 * facts.least.agreement:.1f} %."
        )
