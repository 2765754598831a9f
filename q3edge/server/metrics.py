"""`Metrics`: what a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 30.0, 60.0)
_LONG_SECONDS = (*_SECONDS, 120.0, 300.0, 600.0)


@dataclass(frozen=True, slots=True)
class Load:
    """What a model's engine is doing: answers that run and wait, tokens in the KV cache, tokens that it may hold."""

    model: str
    running: int
    waiting: int
    kv_tokens: int
    kv_budget: int | None


class Metrics:
    """Counters of one server. `loads` gives the present load of each open model."""

    def __init__(self, loads: Callable[[], list[Load]]) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(_Loads(loads))
        self.requests = Counter(
            "q3edge_requests", "Requests that have ended.", ["endpoint", "outcome"], registry=registry
        )
        self.request_seconds = Histogram(
            "q3edge_request_seconds", "Seconds of a request.", ["endpoint"], buckets=_LONG_SECONDS, registry=registry
        )
        self.prompt_tokens = Counter("q3edge_prompt_tokens", "Tokens of prompts.", ["model"], registry=registry)
        self.cached_tokens = Counter(
            "q3edge_prompt_cached_tokens", "Tokens of prompts that were not computed again.", ["model"],
            registry=registry,
        )  # fmt: skip
        self.new_tokens = Counter("q3edge_generated_tokens", "Tokens of answers.", ["model"], registry=registry)
        self.first_token = Histogram(
            "q3edge_time_to_first_token_seconds", "From a request's preparation to its first token.", ["model"],
            buckets=_LONG_SECONDS, registry=registry,
        )  # fmt: skip
        self.between_tokens = Histogram(
            "q3edge_time_between_tokens_seconds", "Between two pieces of an answer.", ["model"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.batch_size = Histogram(
            "q3edge_batch_size", "Answers that run beside an answer's piece, itself included.", ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry,
        )  # fmt: skip
        self.model_loads = Counter("q3edge_model_loads", "How often a model was opened.", ["model"], registry=registry)
        self.model_open = Gauge("q3edge_model_open", "1 while a model is open.", ["model"], registry=registry)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Loads:
    """Collector of what is asked for when the metrics are."""

    def __init__(self, loads: Callable[[], list[Load]]) -> None:
        self._loads = loads

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families = {
            name: GaugeMetricFamily(f"q3edge_{name}", text, labels=["model"])
            for name, text in (
                ("answers_running", "Answers that are being computed."),
                ("answers_waiting", "Answers that wait for a place."),
                ("kv_tokens", "Tokens that the KV cache holds or keeps room for."),
                ("kv_budget_tokens", "Tokens that the KV cache may hold."),
            )
        }
        for load in self._loads():
            families["answers_running"].add_metric([load.model], load.running)
            families["answers_waiting"].add_metric([load.model], load.waiting)
            families["kv_tokens"].add_metric([load.model], load.kv_tokens)
            if load.kv_budget is not None:
                families["kv_budget_tokens"].add_metric([load.model], load.kv_budget)
        yield from families.values()
