"""Build a model, continue a text with it, and show an answer while it is written."""

from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import q3edge

MODEL = Path(str(files("q3edge.data") / "demo_model"))
# The model's whole input: what its chat template would write, a reasoning that is over already included.
PROMPT = "<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def main() -> None:
    """Generate in one piece, then piece by piece."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "model"
        q3edge.build(MODEL, folder, "int8", max_tokens=256)
        with q3edge.load(folder) as model:
            completion = model.generate(PROMPT, temperature=0, max_new_tokens=8)
            print(f"continued: {completion.text}")

            print("streamed: ", end="")
            stream = model.stream("What is 12 + 30?", {"temperature": 0}, thinking=False)
            for piece in stream:
                print(piece.text, end="", flush=True)
            stats = stream.completion.stats
            print(f"\n{stats.new_tokens} tokens, ended by {stats.finish_reason}")


if __name__ == "__main__":
    main()
