"""From files to tokens: the same files give the same digest anywhere, and everything that is lost is counted."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3edge.calibration.data import CalibrationSet, load_calibration_set, loading
from q3edge.errors import InputError, UsageError
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.tokenizer import Tokenizer
from tests.helpers.runtime import build_tokenizer

ROOT = Path(__file__).resolve().parents[3]
TOKENIZER = Tokenizer(build_tokenizer(), "tokenizer", 320)
SUBJECTS = ["cat", "dog", "bird", "teacher", "farmer", "river", "city", "garden", "train", "doctor", "singer", "storm"]
VERBS = ["finds", "likes", "paints", "follows", "visits", "remembers", "watches", "leaves"]
PATTERNS = [
    "The {0} of our {3} {1} a {2} and is glad.", "Nobody knows why one old {0} {1} that {2} in the {3}.",
    "When it rains, every {0} {1} some {2} near a {3}.", "She told us how her {0} {1} this {2} with great care.",
    "From a distance you see the {3}, where his {0} {1} another {2}.", "If any {0} {1} the wrong {2}, they leave.",
]  # fmt: skip
PLACES = ["harbour", "market", "forest", "mountain", "library", "kitchen", "school", "station", "bridge", "island"]


def story(number: int) -> str:
    """English prose of about 60 words, different for each number."""
    rng = np.random.default_rng(number)
    sentences = []
    for pattern in rng.permutation(PATTERNS):
        first, second = rng.choice(SUBJECTS, 2, replace=False)
        sentences.append(pattern.format(first, rng.choice(VERBS), second, rng.choice(PLACES)))
    return " ".join(sentences)


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with a little of everything: 30 stories, 40 sums, 20 programs, and things to be dropped."""
    inside = tmp_path / "data"
    inside.mkdir()
    stories = [{"text": story(n)} for n in range(30)]
    stories[3]["text"] += "\u200b"
    stories += [stories[0], {"text": stories[1]["text"] + " And then it rained."}, {"text": "Too short."}, {"text": ""}]
    write_lines(inside / "stories.jsonl", stories)
    sums = [{"question": f"What is {n} + {n * n}?", "answer": f"It is {n} + {n * n} = {n + n * n}."} for n in range(40)]
    write_lines(inside / "sums.jsonl", sums)
    for n in range(20):
        body = f"def step_{n}(x):\n    y = x * {n}\n    return y + {n * n}\n\n\nprint(step_{n}({n + 7}))\n"
        (inside / f"program{n}.py").write_text(body)
    return inside


def load(*paths: Path, samples: int = 12, seq_len: int = 64, **options: Any) -> CalibrationSet:
    return load_calibration_set(paths, TOKENIZER, None, samples=samples, seq_len=seq_len, **options)


def test_shares_within_one_row_and_sources_add_up(folder: Path) -> None:
    found = load(folder, shares={"knowledge": 0.5, "math": 0.25, "code": 0.25}, samples=14)
    assert found.token_ids.shape == (14, 64)
    assert found.token_ids.dtype == np.int64
    assert not found.token_ids.flags.writeable
    assert all(abs(found.shares[d] - s) < 1 / 14 for d, s in {"knowledge": 0.5, "math": 0.25, "code": 0.25}.items())
    assert sum(source.tokens for source in found.sources) == sum(found.languages.values()) == 14 * 64
    for source in found.sources:
        assert source.read == source.kept + sum(source.dropped.values())
        assert source.kept == sum(source.areas.values())


def test_everything_dropped_or_repaired_is_counted(folder: Path) -> None:
    (folder / "notes.odt").write_text("x")
    found = load(folder)
    stories = next(source for source in found.sources if source.name == "stories.jsonl")
    assert stories.dropped == {"duplicate": 1, "empty": 1, "near-duplicate": 1, "too-short": 1}
    assert (stories.read, stories.kept) == (34, 30)
    assert {notice.code: notice.count for notice in found.notices} == {
        "calibration-file-skipped": 1,
        "calibration-repaired": 1,
        "calibration-empty": 1,
        "calibration-too-short": 1,
        "calibration-duplicate": 1,
        "calibration-near-duplicate": 1,
        "calibration-no-template": next(n.count for n in found.notices if n.code == "calibration-no-template"),
        "calibration-share-not-met": 2 + 1,  # multilingual and safety have no text
    }
    told = next(notice.detail for notice in found.notices if notice.code == "calibration-share-not-met")
    assert told == "rows went to other areas, for lack of text: multilingual 0% of 15%, safety 0% of 5%"


def test_the_digest_depends_on_contents_options_and_seed_only(folder: Path, tmp_path: Path) -> None:
    first = load(folder)
    elsewhere = tmp_path / "other" / "place"
    shutil.copytree(folder, elsewhere)
    paths = sorted(elsewhere.iterdir(), reverse=True)
    assert load(*paths, paths[0]).digest == first.digest
    assert load(*paths).to_json() == first.to_json()
    assert len({load(folder, **o).digest for o in ({}, {"seed": 1}, {"samples": 11}, {"shares": {"math": 1}})}) == 4


def test_digest_is_the_sha256_of_shape_and_ids(folder: Path) -> None:
    found = load(folder)
    data = b"".join(n.to_bytes(8, "little") for n in found.token_ids.shape)
    data += b"".join(int(n).to_bytes(4, "little") for n in found.token_ids.ravel())
    assert found.digest == hashlib.sha256(data).hexdigest()


def test_the_digest_is_the_same_in_every_process(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from q3edge.calibration.data import load_calibration_set\n"
        "from q3edge.runtime.text.tokenizer import Tokenizer\n"
        "import tokenizers\n"
        "tokenizer = Tokenizer(tokenizers.Tokenizer.from_file(sys.argv[2]), 'x', 320)\n"
        "found = load_calibration_set([Path(sys.argv[1])], tokenizer, None, samples=12, seq_len=64)\n"
        "print(found.digest, 'torch' in sys.modules)"
    )
    build_tokenizer().save(str(folder.parent / "tokenizer.json"))
    arguments = [sys.executable, "-c", code, str(folder), str(folder.parent / "tokenizer.json")]
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed}
        result = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        digest, torch_imported = result.stdout.split()
        assert digest == load(folder).digest
        assert torch_imported == "False"


def test_what_the_manifest_gets(folder: Path) -> None:
    found = load(folder, seed=7)
    recorded = found.to_json()
    assert json.loads(json.dumps(recorded)) == recorded
    assert set(recorded) == {"digest", "samples", "seq_len", "seed", "sources", "shares", "languages"}
    assert (recorded["samples"], recorded["seq_len"], recorded["seed"]) == (12, 64, 7)
    assert str(folder.parent) not in json.dumps(recorded)


def test_decoded_rows_are_the_texts(folder: Path) -> None:
    found = load(folder, shares={"knowledge": 1})
    text = "<|endoftext|>".join(TOKENIZER._full.decode(row, skip_special_tokens=False) for row in found.token_ids)
    stories = {story(n) for n in range(30)}
    inside = [piece for row in text.split("<|endoftext|>") if (piece := row.strip())]
    assert all(any(piece in whole for whole in stories) for piece in inside if len(piece) > 5)


def test_fewer_tokens_than_asked_give_fewer_samples(folder: Path) -> None:
    found = load(folder, samples=10_000)
    rows = len(found.token_ids)
    assert 50 < rows < 10_000
    notice = next(notice for notice in found.notices if notice.code == "calibration-fewer-samples")
    assert notice.count == 10_000 - rows
    assert f"the text fills {rows} of 10000 rows of 64 tokens" in notice.detail


def test_a_long_text_counts_as_its_passages(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "LICENSE", tmp_path / "book.txt")
    found = load(tmp_path / "book.txt")
    assert found.sources[0].read == found.sources[0].kept > 5
    assert found.shares == {"knowledge": 1.0}


def test_a_huge_file_is_sampled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_MIN_CANDIDATES", 3000)
    monkeypatch.setattr(loading, "_CANDIDATES_PER_TOKEN", 0)
    found = load(folder / "stories.jsonl", samples=2)
    assert 0 < found.sources[0].dropped["beyond-limit"] < 30
    assert found.digest == load(folder / "stories.jsonl", samples=2).digest
    assert Counter(notice.code for notice in found.notices)["calibration-beyond-limit"] == 1


def test_refused_dialogues_are_dropped_and_counted(folder: Path) -> None:
    template = ChatTemplate("{{ raise_exception('no') if '7' in messages[0].content else messages[0].content }}", "x")
    options: dict[str, Any] = {"samples": 20, "seq_len": 64, "shares": {"math": 1}}
    found = load_calibration_set([folder / "sums.jsonl"], TOKENIZER, template, **options)
    refused = sum("7" in f"{n} {n * n}" for n in range(40))
    assert found.sources[0].dropped == {"refused": refused}
    assert found.sources[0].kept == found.sources[0].areas["math"] == 40 - refused
    template.close()
    template = ChatTemplate("{{ raise_exception('no') }}", "x")
    with pytest.raises(InputError, match=r"0 tokens after .*; the chat template refused 40 dialogues"):
        load_calibration_set([folder / "sums.jsonl"], TOKENIZER, template, **options)
    template.close()


def test_nothing_left_after_filtering(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "Short."}, {"text": "Short too."}, {"text": " "}])
    with pytest.raises(InputError, match=r"nothing is left after filtering \(1 empty, 2 too-short of 3 read\)"):
        load(path)


def test_too_little_for_one_row(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": story(1)}])
    with pytest.raises(
        InputError, match=r"^calibration data: \d+ tokens after filtering; expected at least 4096, one row"
    ):
        load(path, seq_len=4096)


def test_shares_of_areas_that_are_not_there(folder: Path) -> None:
    with pytest.raises(InputError, match="no document of safety as the shares ask; found 20 of code, 30 of knowledge"):
        load(folder, shares={"safety": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples 0: expected at least 1"),
        ({"seq_len": 15}, "sequence length 15: expected 16 or more"),
        ({"seq_len": 65, "context": 64}, r"sequence length 65: expected 16\.\.64, the model's context"),
        ({"shares": {"sport": 1}}, "share of sport: expected areas of knowledge, math"),
    ],
)
def test_bad_requests(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(folder, **options)
