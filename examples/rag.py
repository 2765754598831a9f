"""Answer from a folder of text: rag.py TEXTS EMBEDDING-DIR MODEL-DIR QUESTION...; without arguments, a small demo."""

import json
import shutil
import sys
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import q3edge

PARAGRAPHS = ["A cub grows into a lion.", "Snow is white.", "The symbol Mg stands for magnesium."]
QUESTIONS = ["What does a cub grow into?", "Which colour does snow have?", "What does Mg stand for?"]


def demo(place: Path) -> list[str]:
    """Write a text, and build the embedded model twice: as it is, and by its hidden states, as if it had no head."""
    (place / "facts.txt").write_text("\n\n".join(PARAGRAPHS))
    checkpoint = Path(shutil.copytree(str(files("q3edge.data") / "demo_model"), place / "checkpoint"))
    q3edge.build(checkpoint, place / "model", "int8", max_tokens=256)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "architectures": ["Qwen3Model"]}))
    q3edge.build(checkpoint, place / "embedding", "int8", max_tokens=256)
    return [str(place), str(place / "embedding"), str(place / "model"), *QUESTIONS]


with TemporaryDirectory() as name:
    folder, embedding, language, *questions = sys.argv[1:] or demo(Path(name))
    texts = [part for path in sorted(Path(folder).glob("*.txt")) for part in path.read_text().split("\n\n")]
    with q3edge.load_embedding(embedding) as search, q3edge.load(language) as model:
        nearest = (search.embed(questions, query=True) @ search.embed(texts).T).argmax(axis=1)
        for question, best in zip(questions, nearest):
            completion = model.chat(f"{texts[best]}\n{question}", temperature=0, thinking=False)
            print(f"{question} {completion.answer.strip()} (read: {texts[best]})")
