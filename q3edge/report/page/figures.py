"""Charts of a report: the numbers of each, and its description for readers who cannot see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from q3edge.evaluation.distance.kl_names import KL_TITLES
from q3edge.evaluation.scorecard.scorecard import Histogram
from q3edge.report.content import Report, TensorFact, Variant
from q3edge.report.numbers import STYLES, budget_words
from q3edge.report.page.charts import DASHES, Point, histogram, scatter
from q3edge.report.page.grids import heat_grid
from q3edge.report.page.strips import cells_of, heat_strip
from q3edge.report.thinking import BudgetPoint, ThinkingAdvice

MOST_EXPERTS = 13_000  # cells in each kind of heat map together, which take 7 bytes or so
MOST_TENSORS = 1600  # rows in all tables of tensors together, to keep the page below a megabyte
_FEWEST = 20
_EXACT = 1e-6  # nats
_ALIKE = 1.05  # largest value by the smallest: scales alone make bits differ by a percent


class Figures:
    """Charts as markup, empty where the report has nothing to draw."""

    def __init__(self, report: Report) -> None:
        self._report = report
        losses = [fact.loss for variant in report.variants for fact in variant.tensors if fact.loss]
        self.loss_range = (min(losses), max(losses)) if losses else None  # of all matrices of all variants

    def recovery(self) -> Markup:
        """Chart of recovery over size; the reference has 100 % by definition."""
        points = [
            self._point(v, v.recovery.value, v.recovery.low, v.recovery.high) for v in self._variants if v.recovery
        ]
        if not points:
            return Markup()
        return Markup(
            scatter(
                points + self._reference(100.0),
                key="recovery",
                title="Recovery over size",
                description=f"Up and left is better. {_listed(points, '%')} Bars: 95 % intervals.",
                x_label="size (MB)",
                y_label="recovery (%)",
                front=self._front([v for v in self._variants if v.recovery]),
                limit=self._report.gates.min_recovery,
            )
        )

    @property
    def kl_title(self) -> str:
        """Title of the chart of KL: suite KL over size, or text KL."""
        title = KL_TITLES[self._report.kl]
        return f"{title[0].upper()}{title[1:]} over size"

    def kl(self) -> Markup:
        """Chart of mean KL over size, by its logarithm; without `exact_variants`, which would compress the others."""
        found = [(v, kl) for v in self._variants if (kl := self._report.mean_kl(v)) and kl.value >= _EXACT]
        points = [self._point(v, kl.value, kl.low, kl.high) for v, kl in found]
        if not points:
            return Markup()
        return Markup(
            scatter(
                points,
                key="kl",
                title=self.kl_title,
                description=f"Down and left is better. {_listed(points, 'nats')} Bars: 95 % intervals.",
                x_label="size (MB)",
                y_label=f"{KL_TITLES[self._report.kl]} (nats, logarithmic)",
                front=self._front([v for v, _ in found]),
                log_y=True,
                limit=self._report.gates.max_kl or None,
            )
        )

    def exact_variants(self) -> list[Variant]:
        """Variants whose KL is below 1e-6, that of another order of summation, which the chart of KL leaves out."""
        return [v for v in self._variants if (kl := self._report.mean_kl(v)) and kl.value < _EXACT]

    def tokens_per_second(self) -> Markup:
        """Chart of decoding speed over size."""
        found = [(v, v.speed.tokens_per_second) for v in self._variants if v.speed]
        points = [self._point(v, rate.median, rate.low, rate.high) for v, rate in found]
        return self._speed(points, "speed", "Decoding speed over size", "tokens/s", "decoded tokens/s")

    def memory(self) -> Markup:
        """Chart of peak memory over size."""
        found = [(v, v.speed.peak_bytes) for v in self._variants if v.speed and v.speed.peak_bytes]
        points = [self._point(v, peak.median / 1e6, peak.low / 1e6, peak.high / 1e6) for v, peak in found]
        return self._speed(points, "memory", "Peak memory over size", "MB", "peak memory (MB)")

    def thinking(self) -> Markup:
        """Chart of accuracy over seconds per answer: a line for each variant, a point for each thinking budget."""
        advice = self._report.thinking
        if advice is None:
            return Markup()
        points = [_budget_point(point, advice) for point in advice.points]
        at = range(len(points))
        series = [[i for i in at if advice.points[i].variant == name] for name, _ in self.thinking_lines()]
        said = [
            f"{p.variant}, {budget_words(p.budget)}: {d.x:.3g} s, {d.y:.1f} % right."
            for p, d in zip(advice.points, points)
        ]
        return Markup(
            scatter(
                points,
                key="thinking",
                title="Accuracy over seconds per answer",
                description=f"Up and left is better. {' '.join(said)} Bars: 95 % intervals.",
                x_label="mean seconds per answer",
                y_label="right answers (%)",
                front=sorted((i for i in at if advice.points[i].front), key=lambda i: points[i].x),
                series=series,
            )
        )

    def thinking_lines(self) -> list[tuple[str, str]]:
        """Variants of the chart of thinking budgets, each with how its line is drawn."""
        advice = self._report.thinking
        names = dict.fromkeys(point.variant for point in advice.points) if advice else ()
        return [(name, DASHES[number % len(DASHES)]) for number, name in enumerate(names)]

    def histogram(self, variant: Variant, number: int) -> Markup:
        """Histogram of tokens by KL."""
        found = variant.scorecard.histogram if variant.scorecard else None
        if found is None or not sum(found.counts):
            return Markup()
        return Markup(
            histogram(
                found.edges,
                found.counts,
                key=f"histogram{number}",
                title=f"{variant.name}: tokens by KL",
                description=_described(found),
                x_label="KL (nats)",
            )
        )

    def losses(self, variant: Variant, number: int) -> Markup:
        """Heat strip of the loss of every matrix of the layers; one scale for all variants, so that strips compare."""
        cells = cells_of({fact.name: fact.loss for fact in variant.tensors if fact.loss})
        if not cells or self.loss_range is None:
            return Markup()
        if self.uniform_loss(variant):
            return Markup()  # the page says so
        low, high = self.loss_range
        worst = max(cells, key=lambda cell: cells[cell])
        text = f"Output error from {low:.2g} (faint) to {high:.2g} (strong); largest in layer {worst[0]}, {worst[1]}."
        title = f"{variant.name}: output error by layer and matrix"
        return Markup(heat_strip(cells, low=low, high=high, key=f"loss{number}", title=title, description=text))

    def bits(self, variant: Variant, number: int) -> Markup:
        """Heat strip of the bits of every matrix of the layers; empty where all are alike."""
        cells, found = cells_of({fact.name: fact.bits for fact in variant.tensors}), self.bits_range(variant)
        if found is None:
            return Markup()
        low, high = found
        text = f"From {low:.2f} bits (faint) to {high:.2f} bits (strong)."
        title = f"{variant.name}: stored bits per weight by layer and matrix"
        return Markup(heat_strip(cells, low=low, high=high, key=f"bits{number}", title=title, description=text))

    def bits_range(self, variant: Variant) -> tuple[float, float] | None:
        """Fewest and most bits among the matrices of the layers; None where all are alike, or there are none."""
        bits = cells_of({fact.name: fact.bits for fact in variant.tensors}).values()
        return (min(bits), max(bits)) if bits and not self.uniform_bits(variant) else None

    def uniform_loss(self, variant: Variant) -> tuple[float, float] | None:
        """Smallest and largest loss of the matrices of the layers, where all are alike; None where they differ."""
        return _alike({fact.name: fact.loss for fact in variant.tensors if fact.loss})

    def uniform_bits(self, variant: Variant) -> tuple[float, float] | None:
        """Fewest and most bits of the matrices of the layers, where all are alike; None where they differ."""
        return _alike({fact.name: fact.bits for fact in variant.tensors})

    def experts(self, variant: Variant, number: int) -> list[tuple[str, Markup]]:
        """Heat maps of the experts of every layer, with captions: tokens, output error, and bits if they differ.

        Empty where the maps of the variants before it have used up the room for them.
        """
        facts = variant.experts
        if facts is None or not self.has_expert_maps(variant):
            return []
        maps: dict[str, tuple[str, Mapping[int, Sequence[float]]]] = {
            "tokens": ("Tokens routed to each expert", {layer.layer: layer.tokens for layer in facts.layers}),
            "loss": ("Output error of each expert", {f.layer: f.losses for f in facts.layers if f.losses}),
            "bits": ("Stored bits per weight of each expert", {f.layer: f.bits for f in facts.layers if f.bits}),
        }
        if len({value for row in maps["bits"][1].values() for value in row}) < 2:
            del maps["bits"]
        return [
            _expert_map(variant, f"{style}{number}", caption, style, rows)
            for style, (caption, rows) in maps.items()
            if any(any(row) for row in rows.values())
        ]

    def has_expert_maps(self, variant: Variant) -> bool:
        """Tell whether the page has heat maps of the variant's experts: of the one to ship, then of others in turn."""
        with_experts = [v for v in self._variants if v.experts]
        with_experts.sort(key=lambda v: v.name != self._report.recommendation.name)
        cells = 0
        for found in with_experts:
            cells += sum(len(layer.tokens) for layer in found.experts.layers) if found.experts else 0
            if found is variant:
                return found is with_experts[0] or cells <= MOST_EXPERTS
        return False

    @property
    def _variants(self) -> Sequence[Variant]:
        return self._report.variants

    def _point(self, variant: Variant, y: float, low: float | None, high: float | None) -> Point:
        recommended = variant.name == self._report.recommendation.name
        return Point(variant.name, variant.model_bytes / 1e6, y, low, high, variant.kind, recommended)

    def _front(self, drawn: Sequence[Variant]) -> list[int]:
        names = [variant.name for variant in drawn]
        return [names.index(name) for name in self._report.front() if name in names]

    def _reference(self, y: float) -> list[Point]:
        reference = self._report.reference
        return [Point("reference", reference.stored_bytes / 1e6, y, shape="reference")] if reference else []

    def _speed(self, points: Sequence[Point], key: str, title: str, unit: str, y_label: str) -> Markup:
        if not points:
            return Markup()
        return Markup(
            scatter(
                points,
                key=key,
                title=title,
                description=f"{_listed(points, unit)} Bars: smallest and largest of the repeats.",
                x_label="size (MB)",
                y_label=y_label,
                from_zero=True,
            )
        )


def _budget_point(point: BudgetPoint, advice: ThinkingAdvice) -> Point:
    """Mark of a point; its variant's first one has the variant's name too."""
    first = next(other for other in advice.points if other.variant == point.variant)
    chosen = (point.variant, point.budget) == (advice.variant, advice.budget)
    words = budget_words(point.budget)
    label = f"{point.variant}, {words}" if point is first or chosen else words
    found, share = point.result.accuracy, 100
    low, high = (None if bound is None else share * bound for bound in (found.low, found.high))
    return Point(label, point.result.seconds.value, share * found.value, low, high, emphasis=chosen)


def shown_tensors(report: Report, variant: Variant) -> list[TensorFact]:
    """Rows of the variant's table: all, or those with the largest loss where the page would grow too large."""
    tables = [v for v in report.variants if v.tensors]
    limit = max(_FEWEST, MOST_TENSORS // max(1, len(tables)))
    if len(variant.tensors) <= limit:
        return list(variant.tensors)
    worst = sorted(variant.tensors, key=lambda fact: (-(fact.loss or 0.0), fact.name))[:limit]
    names = {fact.name for fact in worst}
    return [fact for fact in variant.tensors if fact.name in names]


def _expert_map(
    variant: Variant, key: str, caption: str, style: str, rows: Mapping[int, Sequence[float]]
) -> tuple[str, Markup]:
    """Caption and heat map of a value of every expert, from the smallest that is not zero to the largest."""
    values = [value for row in rows.values() for value in row if value]
    low, high = min(values), max(values)
    layer, expert = next((n, row.index(high)) for n, row in rows.items() if high in row)
    write = STYLES["count" if style == "tokens" else style]  # the style "tokens" is of means
    span = f"{caption}, {write(low)} (faint) to {write(high)} (strong)"
    crossed = sum(not value for row in rows.values() for value in row)
    text = f"{span}, by the logarithm; largest in layer {layer}, expert {expert}; {crossed} are zero, each crossed."
    title = f"{variant.name}: {caption[0].lower()}{caption[1:]}"
    drawing = heat_grid(rows, low=low, high=high, key=f"experts-{key}", title=title, description=text)
    return span, Markup(drawing)


def _alike(values: Mapping[str, float]) -> tuple[float, float] | None:
    """Smallest and largest value of the layers' matrices, if colours would make too much of their difference."""
    found = cells_of(values).values()
    return (min(found), max(found)) if found and max(found) <= _ALIKE * min(found) else None


def _listed(points: Sequence[Point], unit: str) -> str:
    return " ".join(f"{point.label}: {point.x:.1f} MB, {point.y:.3g} {unit}." for point in points)


def _described(found: Histogram) -> str:
    total = sum(found.counts)
    parts = [
        f"{100 * count / total:.1f} % from {low:g} to {high:g}"
        for low, high, count in zip(found.edges, found.edges[1:], found.counts)
        if count
    ]
    return f"{total} tokens: {'; '.join(parts)}."
