"""Answer many questions with a model, and measure how much of the float model's knowledge it keeps."""

from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import q3edge

MODEL = Path(str(files("q3edge.data") / "demo_model"))
QUESTIONS = ["What is 3 + 4?", "Which colour does snow have?", "What does a cub grow into?"]


def main() -> None:
    """Build, answer a batch, evaluate, and stop where the model is not good enough."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "model"
        q3edge.build(MODEL, folder, "int8", max_tokens=256)
        with q3edge.load(folder) as model:
            for question, completion in zip(QUESTIONS, model.batch(QUESTIONS, temperature=0, thinking=False)):
                print(f"{question} {completion.answer.strip()}")

        scorecard = q3edge.evaluate(folder, MODEL, areas=["knowledge", "math"], limit=20, cache=False)
        for area, found in scorecard.areas.items():
            print(f"{area}: {found.items} items, recovery {found.recovery.value:.1f} %")
        gates = q3edge.check(folder, max_kl=0.05)
        print("good enough" if not gates.failures else gates.failures[0].reason)


if __name__ == "__main__":
    main()
