"""A long prompt: its time and memory, that of its saved prefix, and its logits against those of the float model.

    python benchmarks/long_context.py ARTIFACT CHECKPOINT [--tokens 32768] [--text FILE] [--threads N] [--work FOLDER]
    python benchmarks/long_context.py ARTIFACT --sampled [--tokens 32768] [--threads N]

The first reads random token ids, or those of FILE, in chunks, as the engine does; saves and restores them; compares
the logits at eight positions of each chunk with CHECKPOINT's float reference, by their place in the prompt: so what a
long prompt adds to the distance stands beside what a short one has. The float model's logits are kept in FOLDER.

The second takes a minute: it times chunks at nine depths, behind keys and values that are made up, and adds up the time
of all by the line through them; memory and restoring are those of the whole prompt.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from machine import machine_line
from numpy.typing import NDArray

from q3edge.architecture.kv_cache import CacheBuffer
from q3edge.checkpoint.opening import open_model
from q3edge.evaluation.distance.logits import compare_logits
from q3edge.machine.cpu import default_threads
from q3edge.reference.model import LogitsHead, hidden_states
from q3edge.runtime.engine.slots import PREFILL_CHUNK, Slot, Slots
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.saved_prefix import opened_prefix, write_prefix
from q3edge.runtime.text.tokenizer import Tokenizer

KEPT = 8  # last positions of each chunk whose logits are compared
BORDERS = (0, 512, 4096, 8192, 16384, 32768, 65536, 131072)  # of the rows of the table


def token_ids(artifact: Path, decoder: Decoder, count: int, text: Path | None) -> list[int]:
    """Random ids, the same for each call, or the first of a text."""
    vocabulary = decoder.config.vocab_size
    if text is None:
        found: list[int] = np.random.default_rng(0).integers(0, vocabulary, count).tolist()
        return found
    return Tokenizer.load(artifact, vocabulary).encode_markup(text.read_text())[:count]


def positions(count: int) -> list[int]:
    """Positions whose logits are compared."""
    starts = range(0, count, PREFILL_CHUNK)
    return [at for start in starts for at in range(start, min(start + PREFILL_CHUNK, count))[-KEPT:]]


def read_prompt(slots: Slots, slot: Slot, ids: list[int]) -> tuple[NDArray[np.float32], float]:
    """Logits at the positions, and seconds."""
    logits, began = [], time.perf_counter()
    for start in range(0, len(ids), PREFILL_CHUNK):
        chunk = ids[start : start + PREFILL_CHUNK]
        logits.append(slots.extend(slot, chunk, keep=min(KEPT, len(chunk))).copy())
        if start % (16 * PREFILL_CHUNK) == 0:
            print(f"  {start + len(chunk)} tokens after {time.perf_counter() - began:.1f} s", flush=True)
    return np.concatenate(logits), time.perf_counter() - began


def sampled(slots: Slots, ids: list[int]) -> tuple[Slot, float]:
    """A slot with made-up keys and values of all tokens, and the seconds that reading them would take."""
    random = np.random.default_rng(0)

    def make_up(contents: Mapping[CacheBuffer, NDArray[np.generic]]) -> None:
        for array in contents.values():
            for part in array:  # one head at a time: no second copy of all
                part[:] = random.integers(-99, 100, part.shape, np.int8)

    def slot_of_all() -> Slot:
        slots.restore(ids, make_up)
        slot = slots.take(ids, len(ids))
        assert slot is not None
        return slot

    slot, seconds = slot_of_all(), []
    starts = range(0, len(ids) - PREFILL_CHUNK + 1, PREFILL_CHUNK)
    depths = starts[:: -max(len(starts) // 8, 1)]  # from the end on, so that keys and values stay behind each
    for depth in (depths[0], *depths):
        slots.truncate(slot, depth)
        began = time.perf_counter()
        slots.extend(slot, ids[depth : depth + PREFILL_CHUNK])
        seconds.append(time.perf_counter() - began)
    print("seconds of a chunk:", ", ".join(f"{s:.2f} at {d}" for d, s in zip(depths, seconds[1:])), flush=True)
    slope, first = np.polyfit(depths, seconds[1:], 1)
    slots.give_back(slot)
    return slot_of_all(), float(sum(first + slope * start for start in starts))


def peak() -> str:
    """Largest resident memory of this process so far."""
    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"


def saved_and_restored(decoder: Decoder, slots: Slots, slot: Slot, folder: str, computed: float) -> None:
    """Print the seconds of both; a restored prefix that computes something else is an AssertionError."""
    path, ids, more = Path(folder) / "prefix", list(slot.ids), list(range(100, 132))
    contents = slots.contents(ids)
    assert contents is not None
    began = time.perf_counter()
    write_prefix(path, decoder, ids, contents)
    saved = time.perf_counter() - began
    expected = slots.extend(slot, more, keep=len(more)).copy()
    slots.truncate(slot, len(ids))
    slots.give_back(slot)
    other = Slots(decoder)
    began = time.perf_counter()
    with opened_prefix(path, decoder) as prefix:
        other.restore(prefix.ids, prefix.write_to)
    restored = time.perf_counter() - began
    again = other.take([*ids, *more], len(ids))
    assert again is not None
    assert again.ids == ids
    np.testing.assert_array_equal(other.extend(again, more, keep=len(more)), expected)
    print(
        f"saved: {path.stat().st_size / 2**20:.0f} MiB in {saved:.2f} s, restored in {restored:.2f} s, "
        f"{computed / restored:.0f} times as fast as computed; the same logits behind it; {peak()}"
    )


def float_logits(checkpoint: str, ids: list[int], kept: Path) -> NDArray[np.float32]:
    """The float model's logits at the positions; computed once."""
    if not kept.exists():
        source = open_model(checkpoint)
        hidden = hidden_states(source, np.array([ids]))[0][positions(len(ids))]
        head = LogitsHead(source)
        np.save(kept, np.concatenate([head.logits(part).numpy() for part in torch.split(hidden, 64)]))
    found: NDArray[np.float32] = np.load(kept, mmap_mode="r")
    return found


def main() -> None:
    """Print time, memory and a table of distances."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--sampled", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads or default_threads())
    print(f"{chosen.artifact}, {chosen.tokens} tokens: {machine_line()}")
    decoder = Decoder(chosen.artifact, threads=chosen.threads)
    ids = token_ids(chosen.artifact, decoder, chosen.tokens, chosen.text)
    slots = Slots(decoder, capacity=min(len(ids) + 64, decoder.config.max_position_embeddings))
    if chosen.sampled:
        slot, seconds = sampled(slots, ids)
    else:
        taken = slots.take(ids, 0)
        assert taken is not None
        slot = taken
        logits, seconds = read_prompt(slots, slot, ids)
    print(f"computed: {len(ids)} tokens in {seconds:.1f} s, {len(ids) / seconds:.0f} tokens/s; {peak()}", flush=True)
    with tempfile.TemporaryDirectory(dir=chosen.work) as folder:
        saved_and_restored(decoder, slots, slot, folder, seconds)
        if chosen.sampled or chosen.checkpoint is None:
            return
        expected = float_logits(chosen.checkpoint, ids, (chosen.work or Path(folder)) / f"float-{len(ids)}.npy")
        where = np.array(positions(len(ids)))
        targets = np.array([*ids, 0])[where + 1]
        print("| positions | compared | mean KL, nats | top-1 agreement | mean error of the logits |")
        print("|---|---|---|---|---|")
        for first, end in pairwise(BORDERS):
            rows = np.flatnonzero((first <= where) & (where < end))
            if len(rows):
                found = compare_logits(np.array(expected[rows]), logits[rows], targets[rows])
                kl = f"{found.kl.mean():.2e} ± {found.kl.std() / len(rows) ** 0.5:.1e}"
                agreement, error = f"{found.top1_agreement.mean():.1%}", f"{found.logit_error.mean():.2%}"
                print(f"| {first} to {end - 1} | {len(rows)} | {kl} | {agreement} | {error} |")


if __name__ == "__main__":
    main()
