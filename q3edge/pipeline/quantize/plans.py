"""Ways to spend a budget of bytes on a model: pure planning, from what every unit costs at every width."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import tensor_shapes
from q3edge.calibration.budget.allocation import Choice, solve_knapsack
from q3edge.calibration.layers.scheme_groups import TABLES, SchemeGroup, scheme_groups
from q3edge.errors import UsageError
from q3edge.exporters.onnx.dry_run import dry_run, group_bytes
from q3edge.formats import CACHE_TYPES
from q3edge.quantization.recipe import Recipe, Rule
from q3edge.quantization.scheme import Scheme

# Only what onnxruntime decodes as fast as its bytes allow: groups of 16 take 2.4 times their share at 4 bits, and have
# no kernel at 2 (docs/lab-log.md).
_LAYER_WIDTHS: tuple[Scheme | None, ...] = (
    Scheme(2, 64, False),
    Scheme(2, 32, False),
    Scheme(4, 128, False),
    Scheme(4, 64),
    Scheme(4, 64, False),
    Scheme(4, 32),
    Scheme(4, 32, False),
    Scheme(8, 128),
    Scheme(8, 32),
    None,
)
_TABLE_WIDTHS: tuple[Scheme | None, ...] = (
    Scheme(4, 32),
    Scheme(4, 32, False),
    Scheme(8, 32),
    Scheme(8, 16),
    None,
)
PLANS = 3  # at most, that are worth a calibration each
_WORTH_A_TRY = 1.5  # of the smallest predicted KL: 8-bit tables came out equal at 1.34 times (135 M model, 104 MB)


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to spend a budget: the scheme of every unit, its bytes in all and the KL that was predicted for it.

    reconstruct: its layers are trained behind the solver, of which the prediction knows nothing.
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
        """Rules for all tensors, the commonest scheme of the layers last and once."""
        common = Counter(scheme for unit, scheme in self.schemes.items() if unit.layer is not None).most_common(1)[0][0]
        rules = [
            Rule(tensor.removesuffix(".weight"), scheme)
            for unit, scheme in self.schemes.items()
            if unit.layer is None or scheme != common
            for tensor in unit.tensors
        ]
        return Recipe((*rules, Rule("model.layers.*_proj", common)), "gptq")


def widths_of(config: Qwen3Config) -> dict[SchemeGroup, tuple[Scheme | None, ...]]:
    """Every unit with the schemes that fit the shapes of its tensors."""
    shapes = tensor_shapes(config)

    def fits(unit: SchemeGroup, scheme: Scheme | None) -> bool:
        size = scheme.group_size if scheme is not None else None
        return size is None or all(shapes[name][-1] % size == 0 for name in unit.tensors)

    return {
        unit: tuple(s for s in (_TABLE_WIDTHS if unit.role == TABLES else _LAYER_WIDTHS) if fits(unit, s))
        for unit in scheme_groups(config)
    }


def make_plans(
    config: Qwen3Config, costs: Mapping[SchemeGroup, Sequence[float]], budget: int, *, int8_cache: bool = False
) -> list[Plan]:
    """The plans worth a calibration: the best uniform one that fits, the knapsack's, and its best with other tables.

    The last has tables of other bits, because costs of layers and tables are not wrong alike: of layers, many small
    ones are added up. It is left out where it is predicted far worse than errors seen so far could explain.
    costs: nats by unit and width. `budget` is one that `check_budget` has passed.
    """
    pricing = _Pricing(config, costs, int8_cache)
    uniform = pricing.uniform(budget)
    found = [uniform] if uniform is not None else []
    measured = pricing.knapsack("measured", budget)
    if measured is None:
        return found

    def differs(unit: SchemeGroup, scheme: Scheme | None) -> bool:
        return unit.layer is not None or _bits(scheme) != _bits(measured.schemes[unit])

    rivals = [measured]
    tables = pricing.knapsack("tables", budget, differs)
    if tables is not None and tables.predicted_kl <= _WORTH_A_TRY * measured.predicted_kl:
        rivals.append(tables)
    return found + [plan for plan in rivals if all(plan.schemes != other.schemes for other in found)]


def check_budget(config: Qwen3Config, budget: int, *, int8_cache: bool = False) -> None:
    """UsageError: no plan fits `budget` bytes."""
    least = _Pricing(config, _free(config), int8_cache).least
    if budget < least:
        smallest = math.ceil(least / 1e3) / 1e3
        raise UsageError(
            f"a budget of {budget / 1e6:g} MB: the smallest that this model can be is {smallest:g} MB; give more"
        )


def largest_plan(config: Qwen3Config) -> Plan:
    """The plan of the most bytes in which every matrix is rounded: none takes longer, or more memory or disk."""
    return _Pricing(config, _free(config)).largest()


def _free(config: Qwen3Config) -> dict[SchemeGroup, list[float]]:
    return {unit: [0.0] * len(widths) for unit, widths in widths_of(config).items()}


class _Pricing:
    """Bytes and costs of every width of every unit.

    A unit's bytes are its tensors'; the graph and the gaps of alignment are taken as large as they get, so that only
    the plan that is chosen is exported without weights to know its size exactly.
    """

    def __init__(
        self, config: Qwen3Config, costs: Mapping[SchemeGroup, Sequence[float]], int8_cache: bool = False
    ) -> None:
        self._config, self._cache = config, CACHE_TYPES[int8_cache]
        self._widths, self._costs = widths_of(config), costs
        shapes = tensor_shapes(config)
        self._sizes = {
            unit: [_unit_bytes(shapes, unit, scheme) for scheme in widths] for unit, widths in self._widths.items()
        }
        self._fixed = self._beside_weights()

    @property
    def least(self) -> int:
        """Bytes of the smallest plan."""
        smallest = {unit: min(range(len(sizes)), key=sizes.__getitem__) for unit, sizes in self._sizes.items()}
        return self.plan("smallest", smallest).size

    def plan(self, name: str, picked: Mapping[SchemeGroup, int]) -> Plan:
        """The plan that takes the width of that number for every unit."""
        schemes = {unit: self._widths[unit][number] for unit, number in picked.items()}
        cost = sum(self._costs[unit][number] for unit, number in picked.items())
        by_tensor: dict[str, Scheme | None] = dict.fromkeys(tensor_shapes(self._config))
        by_tensor |= {tensor: scheme for unit, scheme in schemes.items() for tensor in unit.tensors}
        return Plan(name, schemes, dry_run(self._config, by_tensor, self._cache).model_bytes, cost)

    def knapsack(
        self, name: str, budget: int, allowed: Callable[[SchemeGroup, Scheme | None], bool] = lambda *_: True
    ) -> Plan | None:
        """The plan of the smallest cost within `budget` bytes, of the widths that are allowed, if there is one."""
        numbers = {
            unit: [number for number, scheme in enumerate(widths) if allowed(unit, scheme)]
            for unit, widths in self._widths.items()
        }
        choices = [
            [Choice(self._sizes[unit][number], self._costs[unit][number]) for number in numbers[unit]]
            for unit in self._widths
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
        """The plan of the smallest cost within `budget` bytes with one scheme for all layers, one for the tables."""
        found = [(self._cost(picked), picked) for picked in self._uniform() if self._estimate(picked) <= budget]
        for _, picked in sorted(found, key=lambda entry: entry[0]):
            plan = self.plan("uniform", picked)
            if plan.size <= budget:
                return plan
        return None

    def largest(self) -> Plan:
        """The uniform plan of the most bytes in which every matrix is rounded."""
        rounded = (p for p in self._uniform() if all(self._widths[unit][n] is not None for unit, n in p.items()))
        return self.plan("uniform", max(rounded, key=self._estimate))

    def _uniform(self) -> Iterator[dict[SchemeGroup, int]]:
        """Every pair of one scheme for all layers and one for the tables."""
        for layers in _LAYER_WIDTHS:
            for tables in _TABLE_WIDTHS:
                wanted = {unit: tables if unit.layer is None else layers for unit in self._widths}
                if all(wanted[unit] in widths for unit, widths in self._widths.items()):
                    yield {unit: widths.index(wanted[unit]) for unit, widths in self._widths.items()}

    def _estimate(self, picked: Mapping[SchemeGroup, int]) -> int:
        return self._fixed + sum(self._sizes[unit][number] for unit, number in picked.items())

    def _cost(self, picked: Mapping[SchemeGroup, int]) -> float:
        return sum(self._costs[unit][number] for unit, number in picked.items())

    def _beside_weights(self) -> int:
        """Bytes beside the units' of the plan with the most tensors: scales, exponents and zero points everywhere."""
        picked = {
            unit: next((n for n, scheme in enumerate(widths) if scheme is not None and not scheme.symmetric), 0)
            for unit, widths in self._widths.items()
        }
        return self.plan("", picked).size - sum(self._sizes[unit][number] for unit, number in picked.items())


def _unit_bytes(shapes: Mapping[str, tuple[int, ...]], unit: SchemeGroup, scheme: Scheme | None) -> int:
    """Of the tensors of a unit: matrices that share an input are stored as one, tables each by itself."""
    stored = [(name,) for name in unit.tensors] if unit.layer is None else [unit.tensors]
    return sum(group_bytes(shapes, names, scheme) for names in stored)


def _bits(scheme: Scheme | None) -> int | None:
    return None if scheme is None else scheme.bits


def label(scheme: Scheme | None) -> str:
    """For tables: int4-g32, or float."""
    return "float" if scheme is None else scheme.label()
