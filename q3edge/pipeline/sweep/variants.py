"""Variants of a sweep: names of formats -> recipes, budgets and baselines."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from q3edge.errors import UsageError
from q3edge.evaluation.baselines import BASELINES
from q3edge.evaluation.exported_baselines import EXPORTED
from q3edge.formats import FLOAT, FORMATS
from q3edge.pipeline.quantize.calibrate import Budget
from q3edge.quantization.recipe import Recipe

_FORMATS = sorted((*FORMATS, "int2"), key=len, reverse=True)  # a name comes before its own beginning
_NAME = re.compile(rf"(?P<format>{'|'.join(_FORMATS)})(-g(?P<group>\d+))?(-(?P<zero>sym|asym))?")
_EXPECTED = (
    "int8, int4-mixed, int4, int4-fast or int2 (each with -gN for the group size and -sym or -asym), int8-dynamic, "
    f"float, or a baseline: {', '.join((*BASELINES, *EXPORTED))}"
)


@dataclass(frozen=True, slots=True)
class VariantRequest:
    """Request for one variant: a recipe, a budget or a baseline; none of them: float.

    experts_per_token: of a mixture of experts; None: as many as it was trained with.
    """

    name: str
    recipe: Recipe | None = None
    budget: Budget | None = None
    baseline: str | None = None
    experts_per_token: int | None = None


def parse_variants(
    formats: Sequence[str],
    bits_per_weight: Sequence[float] = (),
    method: str | None = None,
    experts_per_token: Sequence[int] = (),
) -> tuple[VariantRequest, ...]:
    """Parse names into requests, in order; `method` is for all recipes. UsageError: a name unknown or given twice.

    experts_per_token: numbers that all but baselines are asked for with, each (none: the model's own).
    """
    asked = [_parse(name, method) for name in formats]
    asked += [_budget(bits) for bits in bits_per_weight]
    if not asked:
        raise UsageError("nothing to build: give --formats or --target-bpw")
    asked = [each for variant in asked for each in _with_experts(variant, experts_per_token)]
    for number, variant in enumerate(asked):
        for earlier in asked[:number]:
            if replace(variant, name=earlier.name) == earlier:
                raise UsageError(f"{earlier.name} and {variant.name} are the same: give one of them")
    return tuple(asked)


def _with_experts(variant: VariantRequest, experts_per_token: Sequence[int]) -> Iterator[VariantRequest]:
    if variant.baseline is not None or not experts_per_token:
        yield variant
        return
    for chosen in experts_per_token:
        yield replace(variant, name=f"{variant.name}-k{chosen}", experts_per_token=chosen)


def _parse(name: str, method: str | None) -> VariantRequest:
    if name == FLOAT:
        return VariantRequest(name)
    if name in BASELINES or name in EXPORTED:
        return VariantRequest(name, baseline=name)
    found = _NAME.fullmatch(name)
    if found is None:
        raise UsageError(f"format {name!r}: expected {_EXPECTED}")
    group = int(found["group"]) if found["group"] else None
    symmetric = {"sym": True, "asym": False, None: None}[found["zero"]]
    try:
        recipe = _recipe(found["format"], group, symmetric)
    except UsageError as error:
        raise UsageError(f"format {name!r}: {error}") from None
    return VariantRequest(name, replace(recipe, method=method) if method else recipe)


def _budget(bits: float) -> VariantRequest:
    if not 0 < bits < math.inf:
        raise UsageError(f"target {bits!r}: expected bits per weight such as 4.5")
    shown = f"{bits:g}"
    return VariantRequest(f"bpw-{shown if float(shown) == bits else bits}", budget=Budget(bits_per_weight=bits))


def _recipe(format_name: str, group: int | None, symmetric: bool | None) -> Recipe:
    if format_name != "int2":
        return Recipe.for_format(format_name, group, symmetric)
    return Recipe.for_format("int4", group, symmetric).in_two_bits()
