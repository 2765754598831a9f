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
    variants = {variant.name: variant for variant in result.report.variants}
    kl = {name: variant.scorecard.overall.mean_kl.value for name, variant in variants.items()}
    for name, variant in variants.items():
        print(f"{name}: {variant.model_bytes / 1e6:.2f} MB, mean KL {kl[name]:.4f} nats")
    print(f"advice: {result.report.recommendation.sentence}")
    fitting = [name for name, variant in variants.items() if variant.model_bytes <= BUDGET]
    print(f"within {BUDGET / 1e6:g} MB: {min(fitting, key=kl.__getitem__)}")


if __name__ == "__main__":
    main()
