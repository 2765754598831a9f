"""Plans that spend a budget of bytes on a model, from the cost of every scheme group at every width. Pure functions."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from q3edge.architecture.tensors import tensor_shapes
from q3edge.artifact import Notice
from q3edge.calibration.budget.allocation import Choice, solve_knapsack
from q3edge.calibration.layers.scheme_groups import TABLES, SchemeGroup, scheme_groups
from q3edge.errors import UsageError
from q3edge.pipeline.quantize.targets import Target
from q3edge.quantization.recipe import Recipe, Rule
from q3edge.quantization.scheme import Scheme

_EXPERT = re.compile(r"\.experts\.[0-9]+\.")  # all of a layer are in one group, each projection of theirs
PLANS = 3  # at most, each of which takes a calibration
_MAX_COST_RATIO = 1.5  # to the smallest predicted KL: 8-bit tables came out equal at 1.34 times (135 M model, 104 MB)


@dataclass(frozen=True, slots=True)
class Plan:
    """Plan for a budget: the scheme of every scheme group, bytes of the exported model, predicted KL in nats.

    reconstruct: each layer is trained after it is solved, which the prediction does not include.
    """

    name: str
    schemes: Mapping[SchemeGroup, Scheme | None]
    size: int
    predicted_kl: float
    reconstruct: bool = False

    @property
    def reconstructed(self) -> Plan:
        """The same plan with its layers reconstructed."""
        return replace(self, name=f"{self.name}-reconstructed", reconstruct=True)

    @property
    def recipe(self) -> Recipe:
        """Recipe of the plan: a rule per tensor, one for all experts of a layer, and last the most common scheme's."""
        common = Counter(scheme for group, scheme in self.schemes.items() if group.layer is not None).most_common(1)[0][
            0
        ]
        rules = [
            Rule(match, scheme)
            for group, scheme in self.schemes.items()
            if group.layer is None or scheme != common
            for match in dict.fromkeys(
                _EXPERT.sub(".experts.*.", name.removesuffix(".weight")) for name in group.tensors
            )
        ]
        return Recipe((*rules, Rule("model.layers.*_proj", common)), "gptq")


def widths_of(target: Target) -> dict[SchemeGroup, tuple[Scheme | None, ...]]:
    """Every scheme group with the target's schemes that fit its tensors; float alone if none of 4 bits does.

    A group is probed at 4 bits, so one that cannot be stays float in every plan.
    """
    shapes = tensor_shapes(target.config)

    def fits(group: SchemeGroup, scheme: Scheme | None) -> bool:
        size = scheme.group_size if scheme is not None else None
        return size is None or all(shapes[name][-1] % size == 0 for name in group.tensors)

    def fitting(group: SchemeGroup) -> tuple[Scheme | None, ...]:
        found = tuple(s for s in (target.tables if group.role == TABLES else target.layers) if fits(group, s))
        return found if any(_bits(scheme) == 4 for scheme in found) else (None,)

    return {group: fitting(group) for group in scheme_groups(target.config)}


def always_float(target: Target) -> Notice | None:
    """Notice of the matrices that stay float in every plan, because no width fits them; None if all can be rounded."""
    shapes = tensor_shapes(target.config)
    names = [name for group, widths in widths_of(target).items() if widths == (None,) for name in group.tensors]
    if not names:
        return None
    detail = f"matrices stay float: 32 does not divide the width {shapes[names[0]][-1]} of {names[0]}"
    return Notice("left-float", len(names), detail)


def make_plans(target: Target, costs: Mapping[SchemeGroup, Sequence[float]], budget: int) -> list[Plan]:
    """Make the plans to calibrate: the best uniform one that fits, the knapsack's, and its best with other tables.

    The last has embedding and head of other bits, because the predicted costs of layers, sums of many small ones, and
    of these tables err differently. It is left out if its predicted KL is above _MAX_COST_RATIO times the smallest.
    costs: nats by scheme group and width. `budget` is one that `check_budget` has passed.
    """
    pricing = _Pricing(target, costs)
    uniform = pricing.uniform(budget)
    found = [uniform] if uniform is not None else []
    measured = pricing.knapsack("measured", budget)
    if measured is None:
        return found

    def differs(group: SchemeGroup, scheme: Scheme | None) -> bool:
        return group.layer is not None or _bits(scheme) != _bits(measured.schemes[group])

    rivals = [measured]
    tables = pricing.knapsack("tables", budget, differs)
    if tables is not None and tables.predicted_kl <= _MAX_COST_RATIO * measured.predicted_kl:
        rivals.append(tables)
    return found + [plan for plan in rivals if all(plan.schemes != other.schemes for other in found)]


def check_budget(target: Target, budget: int) -> None:
    """Raise UsageError if no plan fits `budget` bytes, if the float model does, or if no matrix can be rounded."""
    notice = always_float(target)
    left = f"{notice.count} {notice.detail}" if notice else ""
    if all(widths == (None,) for widths in widths_of(target).values()):
        raise UsageError(f"no budget can be spent on this model, as all {left}; choose --format int8 or int8-dynamic")
    pricing = _Pricing(target, _free(target))
    if budget < pricing.least:
        raise UsageError(
            f"a budget of {_megabytes(budget)}: the smallest that this model can be is {_megabytes(pricing.least)}"
            + (f", as {left}; give more, or a --recipe with fit = true" if left else "; give more")
        )
    if budget >= pricing.unrounded:
        raise UsageError(
            f"the whole float model takes {_megabytes(pricing.unrounded)}, which is within the budget; "
            f"use it as it is (`{target.unrounded}`), or give less"
        )


def largest_plan(target: Target) -> Plan:
    """Largest plan in which every matrix that can be is rounded: no plan needs more time, memory or disk."""
    return _Pricing(target, _free(target)).largest()


def _megabytes(size: int) -> str:
    if size < 1000:
        return f"{size} bytes"
    return f"{math.ceil(size / 1e3) / 1e3:g} MB"


def _free(target: Target) -> dict[SchemeGroup, list[float]]:
    return {group: [0.0] * len(widths) for group, widths in widths_of(target).items()}


class _Pricing:
    """Prices of every width of every scheme group: bytes and costs.

    The bytes of a scheme group are those of its tensors. What the target stores besides is taken as large as it gets,
    so that only the chosen plan needs a dry run of its export for its exact size.
    """

    def __init__(self, target: Target, costs: Mapping[SchemeGroup, Sequence[float]]) -> None:
        self._target = target
        self._widths, self._costs = widths_of(target), costs
        self._sizes = {
            group: [target.group_bytes(group, scheme) for scheme in widths] for group, widths in self._widths.items()
        }
        self._fixed = self._beside_weights()

    @property
    def least(self) -> int:
        """Bytes of the smallest plan."""
        smallest = {group: min(range(len(sizes)), key=sizes.__getitem__) for group, sizes in self._sizes.items()}
        return self.plan("smallest", smallest).size

    @property
    def unrounded(self) -> int:
        """Bytes of the model with every matrix float."""
        return self._target.model_bytes(dict.fromkeys(tensor_shapes(self._target.config)))

    def plan(self, name: str, picked: Mapping[SchemeGroup, int]) -> Plan:
        """Plan with the width of the given number for every scheme group."""
        schemes = {group: self._widths[group][number] for group, number in picked.items()}
        by_tensor: dict[str, Scheme | None] = dict.fromkeys(tensor_shapes(self._target.config))
        by_tensor |= {tensor: scheme for group, scheme in schemes.items() for tensor in group.tensors}
        return Plan(name, schemes, self._target.model_bytes(by_tensor), self._cost(picked))

    def knapsack(
        self, name: str, budget: int, allowed: Callable[[SchemeGroup, Scheme | None], bool] = lambda *_: True
    ) -> Plan | None:
        """Find the plan of the smallest cost within `budget` bytes among the allowed widths; None if none fits."""
        numbers = {
            group: [number for number, scheme in enumerate(widths) if allowed(group, scheme)]
            for group, widths in self._widths.items()
        }
        choices = [
            [Choice(self._sizes[group][number], self._costs[group][number]) for number in numbers[group]]
            for group in self._widths
        ]
        if not all(choices):
            return None
        room, smallest = budget - self._fixed, [min(range(len(c)), key=lambda n: c[n].size) for c in choices]
        while True:
            picked = solve_knapsack(choices, room) or smallest
            plan = self.plan(name, {u: numbers[u][p] for u, p in zip(numbers, picked)})
            if plan.size <= budget:
                return plan
            if picked == smallest:
                return None
            room -= plan.size - budget

    def uniform(self, budget: int) -> Plan | None:
        """Find the cheapest plan within `budget` bytes with one scheme for all layers, one for embedding and head."""
        found = [(self._cost(picked), picked) for picked in self._uniform() if self._estimate(picked) <= budget]
        for _, picked in sorted(found, key=lambda entry: entry[0]):
            plan = self.plan("uniform", picked)
            if plan.size <= budget:
                return plan
        return None

    def largest(self) -> Plan:
        """Largest uniform plan in which every matrix that a width fits is rounded."""

        def is_rounded(group: SchemeGroup, number: int) -> bool:
            return self._widths[group] == (None,) or self._widths[group][number] is not None

        rounded = (picked for picked in self._uniform() if all(is_rounded(*entry) for entry in picked.items()))
        return self.plan("uniform", max(rounded, key=self._estimate))

    def _uniform(self) -> Iterator[dict[SchemeGroup, int]]:
        """Yield every pair of one scheme for all layers and one for embedding and head; what none fits stays float."""
        for layers in self._target.layers:
            for tables in self._target.tables:
                wanted = {
                    group: None if widths == (None,) else tables if group.layer is None else layers
                    for group, widths in self._widths.items()
                }
                if all(wanted[group] in widths for group, widths in self._widths.items()):
                    yield {group: widths.index(wanted[group]) for group, widths in self._widths.items()}

    def _estimate(self, picked: Mapping[SchemeGroup, int]) -> int:
        return self._fixed + sum(self._sizes[group][number] for group, number in picked.items())

    def _cost(self, picked: Mapping[SchemeGroup, int]) -> float:
        return sum(self._costs[group][number] for group, number in picked.items())

    def _beside_weights(self) -> int:
        """Bytes besides the scheme groups' in the plan with the most tensors: scales, exponents, zero points."""
        picked = {
            group: next((n for n, scheme in enumerate(widths) if scheme is not None and not scheme.symmetric), 0)
            for group, widths in self._widths.items()
        }
        return self.plan("", picked).size - sum(self._sizes[group][number] for group, number in picked.items())


def _bits(scheme: Scheme | None) -> int | None:
    return None if scheme is None else scheme.bits


def label(scheme: Scheme | None) -> str:
    """Label of a scheme for reports: int4-g32, or float."""
    return "float" if scheme is None else scheme.label()
