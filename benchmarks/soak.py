"""A real server under clients that come, wait and leave: stuck slots, growing memory, answers that differ.

    python benchmarks/soak.py ARTIFACT [--seconds 300] [--clients 64] [--leaving 0.3] [--max-batch 8] [--seed 0]

Every client asks one question of the built-in suite after another, greedily, half of them streamed, each with its own
limit of tokens; a share of the requests is given up at a random moment. Afterwards: requests by outcome, answers that
are not those of the model alone (in this process), resident memory of the server behind the first fifth of the time
and at its end, and whether slots and queue are empty. Exit code 1: a slot is stuck, or the server ended with another
code than 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from machine import machine_line

import q3edge
from q3edge.evaluation.suites.suite_files import built_in_suites

_LIMITS = (8, 16, 32, 48)  # tokens of an answer


@dataclass
class Soak:
    """What has happened so far. answers: texts by question and limit."""

    address: str
    outcomes: Counter[str] = field(default_factory=Counter)
    answers: dict[tuple[str, int], Counter[str]] = field(default_factory=dict)
    rss: list[tuple[float, int]] = field(default_factory=list)

    async def client(self, choice: random.Random, questions: list[str], until: float, leaving: float) -> None:
        """Ask until the time is over."""
        async with self._connected() as client:
            while time.monotonic() < until:
                question, limit, stream = choice.choice(questions), choice.choice(_LIMITS), choice.random() < 0.5
                if choice.random() < leaving:
                    await self._give_up(question, limit, stream, choice.random() * 2)
                    continue
                text = await self._ask(client, question, limit, stream)
                if text is not None:
                    self.answers.setdefault((question, limit), Counter())[text] += 1

    def _connected(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.address, timeout=120, trust_env=False, verify=False)

    async def _give_up(self, question: str, limit: int, stream: bool, seconds: float) -> None:
        """Ask, and hang up after so many seconds; on a connection of its own, as httpx loses one that is cancelled."""
        async with self._connected() as client:
            try:
                await asyncio.wait_for(self._ask(client, question, limit, stream), seconds)
                self.outcomes["done before it was given up"] += 1
            except TimeoutError:
                self.outcomes["given up"] += 1

    async def _ask(self, client: httpx.AsyncClient, question: str, limit: int, stream: bool) -> str | None:
        body = _body(question, limit) | {"stream": stream}
        if not stream:
            answer = await client.post("/v1/chat/completions", json=body)
            if answer.status_code != 200:
                self.outcomes[f"status {answer.status_code}"] += 1
                await asyncio.sleep(0.2)
                return None
            self.outcomes["answered"] += 1
            message = answer.json()["choices"][0]["message"]
            return (message.get("reasoning_content") or "") + "|" + (message["content"] or "")
        parts: dict[str, list[str]] = {"reasoning_content": [], "content": []}
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                self.outcomes[f"status {answer.status_code}"] += 1
                await asyncio.sleep(0.2)
                return None
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    for choice in json.loads(line[6:]).get("choices", ()):
                        for name, found in parts.items():
                            found.append(choice["delta"].get(name) or "")
        self.outcomes["streamed"] += 1
        return "".join(parts["reasoning_content"]) + "|" + "".join(parts["content"])

    async def watch(self, process: int, until: float) -> None:
        """Sample the server's resident memory."""
        began = time.monotonic()
        while time.monotonic() < until:
            for line in Path(f"/proc/{process}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    self.rss.append((time.monotonic() - began, int(line.split()[1])))
            await asyncio.sleep(1)


def _body(question: str, limit: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "max_tokens": limit, "temperature": 0}


async def _run(soak: Soak, process: int, chosen: argparse.Namespace, questions: list[str]) -> None:
    until = time.monotonic() + chosen.seconds
    choices = [random.Random(chosen.seed + number) for number in range(chosen.clients)]
    clients = [soak.client(choice, questions, until, chosen.leaving) for choice in choices]
    await asyncio.gather(soak.watch(process, until), *clients)


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--leaving", type=float, default=0.3)
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    questions = [item.prompt for suite in built_in_suites() for item in suite.items if item.kind == "answer"][:100]
    command = [sys.executable, "-m", "q3edge", "serve", str(chosen.artifact), "--port", "0"]
    command += ["--max-batch", str(chosen.max_batch), "--max-queue", str(chosen.clients)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout
        address = server.stdout.readline().partition("ready: ")[2].strip().removesuffix("/v1")
        soak = Soak(address)
        asyncio.run(_run(soak, server.pid, chosen, questions))
        time.sleep(2)
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
            metrics = client.get("/metrics").text
            health = client.get("/health").json()
        server.terminate()
        code = server.wait(30)
    left = [
        line for line in metrics.splitlines() if line.startswith(("q3edge_answers_running", "q3edge_answers_waiting"))
    ]
    different, answers = 0, 0
    with q3edge.load(chosen.artifact) as model:
        for (question, limit), texts in soak.answers.items():
            alone = model.chat(question, max_new_tokens=limit, temperature=0)
            answers += texts.total()
            different += texts.total() - texts[f"{alone.thinking}|{alone.answer}"]
    early = [kib for second, kib in soak.rss if second >= chosen.seconds / 5]
    tenth = max(len(early) // 10, 1)
    first, last = statistics.median(early[:tenth]), statistics.median(early[-tenth:])
    print(machine_line())
    print(f"{chosen.clients} clients, {chosen.seconds} s: {dict(soak.outcomes)}")
    print(f"{different} of {answers} answers are not the model's own alone")
    print(f"resident memory {first / 1024:.1f} -> {last / 1024:.1f} MiB ({100 * (last / first - 1):+.2f} %)")
    print(f"afterwards: {health}, {left}, exit code {code}")
    stuck = health.get("status") != "ready" or any(float(line.rpartition(" ")[2]) for line in left)
    return int(stuck or code != 0)


if __name__ == "__main__":
    raise SystemExit(main())
