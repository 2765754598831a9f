"""Requests at the same time on one engine: tokens per second, time to first token, time between tokens.

    python benchmarks/batching.py ARTIFACT [--threads N] [--clients 1,4,8,16] [--prompt 16] [--new 128] [--long 4096]

First so many clients that each ask once, with random token ids. Then eight running requests while a long prompt comes
in: the time between two of their tokens, before and meanwhile (median and 95th percentile), and how long the prompt
takes, beside them and alone.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from machine import machine_line

from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.engine.slots import Slots
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.session.decoder import Decoder

BESIDE = 8  # running requests


class Bench:
    """One decoder; each measurement has an engine of its own."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._random = np.random.default_rng(0)

    def request(self, prompt: int, new: int) -> Request:
        """A request with random ids, which no other begins with."""
        ids = self._random.integers(0, self._decoder.config.vocab_size, prompt).tolist()
        return Request(ids, GenerationSettings(new), self._decoder.config.max_position_embeddings)

    def clients(self, count: int, prompt: int, new: int) -> str:
        """One row: all ask at once."""
        engine = Engine(Slots(self._decoder, count))
        requests = [self.request(prompt, new) for _ in range(count)]
        began = time.perf_counter()
        for request in requests:
            engine.add(request)
        while engine.busy:
            engine.step()
        seconds = time.perf_counter() - began
        first = sorted(request.statistics.time_to_first_token for request in requests)[count // 2]
        return (
            f"{count} clients, {prompt} in, {new} out: {count * new / seconds:.1f} tokens/s, first token {first:.2f} s"
        )

    def beside(self, prompt: int, running: int) -> str:
        """Time between tokens of running requests, before and while a long prompt comes in, and its own time."""
        engine = Engine(Slots(self._decoder, running + 1))
        last, between = dict[int, float](), defaultdict[str, list[float]](list)

        def step(phase: str) -> None:
            events = engine.step()
            now = time.perf_counter()
            for event in events:
                if event.tokens and event.id in last and event.id != watched:
                    between[phase].append(now - last[event.id])
                if event.tokens:
                    last[event.id] = now

        watched = -1
        for _ in range(running):
            engine.add(self.request(128, 100_000 if running else 1))
        while running and len(last) < running:
            step("start")
        for _ in range(20 * bool(running)):
            step("before")
        long = self.request(prompt, 2)
        watched = engine.add(long)
        while not long.new_ids:
            step("meanwhile")
        shown = ", ".join(
            f"{phase} {1e3 * np.median(between[phase]):.0f} (p95 {1e3 * np.percentile(between[phase], 95):.0f})"
            for phase in ("before", "meanwhile")
            if between[phase]
        )
        took = long.statistics.time_to_first_token
        return f"prompt of {prompt} beside {running}: {took:.2f} s; ms between tokens: {shown or 'nobody waits'}"


def main() -> None:
    """Print one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clients", default="1,4,8,16")
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--long", type=int, default=4096)
    chosen = parser.parse_args()
    bench = Bench(Decoder(chosen.artifact, threads=chosen.threads))
    print(f"{chosen.artifact}: {machine_line()}")
    bench.clients(1, chosen.prompt, 4)  # warm
    for count in map(int, chosen.clients.split(",")):
        print(bench.clients(count, chosen.prompt, chosen.new), flush=True)
    if chosen.long:
        for running in (0, 1, BESIDE):
            print(bench.beside(chosen.long, running), flush=True)


if __name__ == "__main__":
    main()
