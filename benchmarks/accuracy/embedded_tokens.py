"""tokens.npz as tokens.py writes it, for the models that ship with q3edge: their dialogues and held-out questions.

    python benchmarks/accuracy/embedded_tokens.py -o tokens.npz

They know nothing but their curriculum, so other text would only measure noise. Calibration: 512 rows of 128 tokens, as
many tokens as the 135 M model is given, of dialogues of which the first 480 are those that `q3edge demo` calibrates on.
Judging: the 300 held-out questions with their right answers, one conversation after the other. They have learned
to predict answers only, so the perplexity over all of it says nothing.
"""

from __future__ import annotations

import argparse
import sys
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from q3edge.calibration.data.loading import load_calibration_set
from q3edge.evaluation.scorecard.passages import encode_suites
from q3edge.evaluation.suites.suite_files import built_in_suites
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.demo_model.calibration import records
from tools.demo_model.files import write_lines

MODEL = Path(str(files("q3edge.data") / "demo_model"))
_CONTEXT, _VOCABULARY = 1024, 1280
_CALIBRATION = (512, 128)  # rows, tokens per row
_DIALOGUES, _SEED = 2000, 7  # enough for these rows; the seed of the package's calibration.jsonl
_WINDOW = 256  # tokens


def main() -> None:
    """Encode, cut, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    tokenizer, template = Tokenizer.load(MODEL, _VOCABULARY), ChatTemplate.load(MODEL)
    samples, length = _CALIBRATION
    with TemporaryDirectory() as folder:
        dialogues = Path(folder) / "dialogues.jsonl"
        write_lines(dialogues, records(_SEED, _DIALOGUES))
        calibration = load_calibration_set([dialogues], tokenizer, template, samples=samples, seq_len=length)
    questions = [suite for suite in built_in_suites() if suite.name == "built-in questions"]
    encoded = encode_suites(MODEL, tokenizer, _CONTEXT, questions, None)
    ids = np.concatenate([passage.window.token_ids for passage in encoded.passages])
    judging = ids[: len(ids) // _WINDOW * _WINDOW].reshape(-1, _WINDOW)
    np.savez(
        options.output,
        calibration=calibration.token_ids, calibration_text=["dialogues"] * len(calibration.token_ids),
        judging=judging, judging_text=["questions"] * len(judging),
    )  # fmt: skip
    print(f"calibration {calibration.token_ids.shape}, judging {judging.shape} -> {options.output}")


if __name__ == "__main__":
    main()
