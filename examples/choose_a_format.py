"""Which format to ship? Build several, measure each, and take the report's advice, or the best within a budget."""

from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import q3edge

MODEL = Path(str(files("q3edge.data") / "demo_model"))
BUDGET = 2_000_000  # bytes


def main() -> None:
    """Sweep over two formats; the same call would go on where a stopped one was."""
    with TemporaryDirectory() as name:
        result = q3edge.sweep(
            MODEL,
            Path(name) / "sweep",  # report.html, .json and .md appear there too
            ["int8", "int4"],
            method="rtn",
            areas="math",
            limit=10,
            speed=False,
            cache=False,
            min_recovery=90,
        )
    for variant in result.report.variants:
        size, kl = variant.model_bytes / 1e6, variant.scorecard.overall.mean_kl.value
        print(f"{variant.name}: {size:.2f} MB, mean KL {kl:.4f} nats")
    print(f"advice: {result.report.recommendation.sentence}")
    fitting = [variant for variant in result.report.variants if variant.model_bytes <= BUDGET]
    best = min(fitting, key=lambda variant: variant.scorecard.overall.mean_kl.value)
    print(f"within {BUDGET / 1e6:g} MB: {best.name}")


if __name__ == "__main__":
    main()
