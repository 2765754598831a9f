"""Hold a conversation with a model that thinks before it answers, and with one that does not."""

from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import q3edge

MODEL = Path(str(files("q3edge.data") / "demo_model"))
QUESTIONS = ("What is 7 + 8?", "What is 12 + 30?")


def main() -> None:
    """Ask two questions in one conversation: each turn computes only what is new in it."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "model"
        q3edge.build(MODEL, folder, "int8", max_tokens=256)
        with q3edge.load(folder) as model:
            settings = q3edge.GenerationSettings(temperature=0, max_new_tokens=200)
            for thinking in (True, False):
                messages = []
                for question in QUESTIONS:
                    messages.append({"role": "user", "content": question})
                    completion = model.chat(messages, settings, thinking=thinking)
                    messages.append({"role": "assistant", "content": completion.answer})
                    print(f"{question} {completion.answer.strip()} (thought: {completion.thinking.strip()!r})")


if __name__ == "__main__":
    main()
