"""Small artifact folders for the runtime's tests: a random two-layer model, a tokenizer, a chat template."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from q3edge.architecture.kv_cache import KVScales
from q3edge.artifact import Manifest
from q3edge.errors import UsageError
from q3edge.exporters.onnx.export import export_decoder
from tests.helpers.models import InMemoryWeights, tiny_config

Answer = Callable[..., tuple[int, str, str]]  # a verb run in this process: exit code, stdout and stderr
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKUP_TOKENS = ("<think>", "</think>")
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

TOOL_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\n<tools>' }}
    {%- for tool in tools %}
        {{- '\n' ~ (tool | tojson) }}
    {%- endfor %}
    {{- '\n</tools><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + (' ' + message.name if message.name is defined else '') + '\n' }}
    {%- if message.reasoning_content is string %}
        {{- '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}
    {%- endif %}
    {{- message.content }}
    {%- for call in message.tool_calls %}
        {{- '\n<tool_call>\n{"name": "' ~ call.function.name ~ '", "arguments": ' }}
        {{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}
        {{- '}\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}"""


def build_tokenizer() -> tokenizers.Tokenizer:
    """A byte-level BPE like Qwen3's, with fewer than 320 ids."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=295, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["the cat sat on the mat and the dog sat on the log <|im_end|>"] * 4, trainer)
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([tokenizers.AddedToken(token, special=False) for token in MARKUP_TOKENS])
    return tokenizer


def write_tokenizer(folder: Path, **config: Any) -> None:
    """Write tokenizer.json and tokenizer_config.json with the chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer().save(str(folder / "tokenizer.json"))
    fields = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "chat_template": CHAT_TEMPLATE,
        **config,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))


def write_artifact(folder: Path, kv_scales: KVScales | None = None, **overrides: Any) -> Path:
    """Write a complete float artifact of `InMemoryWeights.random(**overrides)`; with `kv_scales` its cache is int8."""
    write_tokenizer(folder)
    config = tiny_config(**overrides)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 0.6, "top_k": 20}))
    export_decoder(InMemoryWeights.random(**overrides), folder, kv_scales=kv_scales)
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    """Write a manifest that matches the folder's content, as somebody who tampers with it can."""
    Manifest("onnx", "parent", {}).save(folder)


class FakeCache:
    """KV cache that holds only the token ids of each row; row 0 is taken."""

    def __init__(self, capacity: int, context: int) -> None:
        self.rows: list[list[int]] = [[]]
        self.free: set[int] = set()
        self.capacity, self.context = capacity, context

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.rows]

    def take(self) -> int:
        if not self.free:
            self.free.add(len(self.rows))
            self.rows.append([])
        row = min(self.free)
        self.free.remove(row)
        assert not self.rows[row]
        return row

    def give_back(self, row: int) -> None:
        assert row not in self.free
        self.rows[row].clear()
        self.free.add(row)

    def release(self, row: int, length: int) -> None:
        self.truncate(length, row)

    def copy(self, source: int, row: int, length: int) -> None:
        assert not {source, row} & self.free
        self.rows[row] = self.rows[source][:length]
        assert len(self.rows[row]) == length

    def read(self, row: int, start: int, end: int) -> tuple[np.ndarray, ...]:
        assert row not in self.free
        assert end <= len(self.rows[row])
        return (np.array(self.rows[row][start:end]),)

    def write(self, row: int, start: int, tokens: Sequence[np.ndarray]) -> None:
        assert row not in self.free
        assert start <= len(self.rows[row])
        self.rows[row][start:] = tokens[0].tolist()

    def truncate(self, length: int, row: int) -> None:
        assert row not in self.free
        del self.rows[row][length:]

    def reserve(self, tokens: int) -> None:
        assert tokens <= self.context
        self.capacity = max(self.capacity, tokens)


class FakeDecoder:
    """A decoder whose logits depend on the last two tokens alone, so they are exact however the tokens are split.

    So it repeats itself, and draft tokens are accepted. `passes` counts the tokens of each forward.
    """

    idle_rows = True
    any_rows = False

    def __init__(self, seed: int = 0, *, vocab: int = 12, context: int = 300) -> None:
        self.config = SimpleNamespace(max_position_embeddings=context, vocab_size=vocab)
        self.cache_spec = SimpleNamespace(bytes_per_token=lambda: 1000)
        self.logits = 3 * np.random.default_rng(seed).standard_normal((vocab, vocab, vocab)).astype(np.float32)
        self.passes: list[int] = []
        self.caches: list[FakeCache] = []

    def new_cache(self, capacity: int) -> FakeCache:
        self.caches.append(FakeCache(capacity, self.config.max_position_embeddings))
        return self.caches[-1]

    def forward(
        self,
        input_ids: np.ndarray,
        cache: FakeCache,
        *,
        keep: int = 1,
        counts: Sequence[int] | None = None,
        out: np.ndarray | None = None,
        first_row: int = 0,
    ) -> np.ndarray:
        """Append tokens to rows of the cache; returns logits, as `Decoder.forward` does."""
        found = np.full((len(input_ids), keep, self.config.vocab_size), np.nan, np.float32)
        counts = counts or [input_ids.shape[1]] * len(input_ids)
        self.passes.append(sum(counts))
        for i, (ids, count) in enumerate(zip(input_ids, counts, strict=True)):
            if count:
                row = cache.rows[first_row + i]
                assert first_row + i not in cache.free
                if len(row) + count > cache.capacity:
                    raise UsageError("the cache is full")
                row += ids.tolist()
                text = [0, *row]
                found[i] = [self.logits[text[at - 1], text[at]] for at in range(len(text) - keep, len(text))]
        if out is None:
            return found
        out[:] = found
        return out

    def forward_rows(self, tokens: Mapping[int, Sequence[int]], cache: FakeCache, *, out: np.ndarray) -> np.ndarray:
        """Append tokens to rows of the cache; returns logits, as `Decoder.forward_rows` does."""
        assert self.any_rows
        self.passes.append(sum(map(len, tokens.values())))
        found = []
        for number, ids in tokens.items():
            row = cache.rows[number]
            assert number not in cache.free
            assert len(row) + len(ids) <= cache.capacity
            row += ids
            text = [0, *row]
            found += [self.logits[text[at - 1], text[at]] for at in range(len(text) - len(ids), len(text))]
        out[0] = found[-out.shape[1] :]
        return out
