"""The Qwen3 family as plain text: a table of all models, or a page of one."""

from __future__ import annotations

from q3edge.cli.layout import table
from q3edge.pipeline.predictions import cache_tokens
from q3edge.pipeline.zoo import ThisMachine, Zoo, ZooFormat, ZooModel
from q3edge.terminal import duration

_THINKS = {"hybrid": "as the prompt asks", "always": "always", "never": "never", None: "-"}
_FAMILY = "qwen3-"


def zoo_table(zoo: Zoo) -> str:
    """Format the verdict, then every model in the format that fits, or in the default where none does."""
    header = ("model", "format", "disk GB", "RAM GB", "tokens/s", "make", "fits")
    rows = [_row(model) for model in zoo.models]
    return "\n\n".join(
        [
            _sentence(zoo.verdict),
            _limits(zoo),
            table(header, rows),
            _notes(zoo.machine, "`q3edge zoo NAME` has every format of a model. All are Apache-2.0."),
        ]
    )


def zoo_page(zoo: Zoo) -> str:
    """Format the page of the one model: the verdict, its facts, and every format."""
    (model,) = zoo.models
    rows = [_format_row(name, found) for name, found in model.formats.items()]
    header = ("format", "disk GB", "RAM GB", "tokens/s", "make", "rounded only", "lacks")
    tokens = cache_tokens(model.known.config)
    note = f"RAM is with {tokens} tokens of KV cache." if model.known.kind != "embedding model" else ""
    parts = [_sentence(zoo.verdict), _limits(zoo), _facts(model), table(header, rows), _notes(zoo.machine, note)]
    return "\n\n".join(parts)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _row(model: ZooModel) -> tuple[str, ...]:
    found = model.shown
    return (
        model.known.name.removeprefix(_FAMILY),
        found.prediction.format,
        *_sizes(found),
        _make(found),
        "yes" if model.fitting else "no",
    )


def _format_row(name: str, found: ZooFormat) -> tuple[str, ...]:
    rounded = duration(found.prediction.build_seconds)
    return (name, *_sizes(found), "-" if found.making is None else _make(found), rounded, ", ".join(found.lacks) or "-")


def _make(found: ZooFormat) -> str:
    return duration(found.make_seconds) if found.made_here else "elsewhere"


def _sizes(found: ZooFormat) -> tuple[str, str, str]:
    said = found.prediction
    speed = "-" if said.tokens_per_second is None else _short(said.tokens_per_second)
    return _short(said.disk_bytes / 1e9, 2), _short(said.ram_bytes / 1e9), speed


def _short(value: float, digits: int = 1) -> str:
    return f"{value:.{digits if value < 10 else digits - 1}f}"


def _limits(zoo: Zoo) -> str:
    limits = zoo.limits
    ram = "memory unknown" if limits.ram_bytes is None else f"{limits.ram_bytes / 1e9:.1f} GB of memory"
    disk = "disk unknown" if limits.disk_bytes is None else f"{limits.disk_bytes / 1e9:.1f} GB of disk"
    return f"What fits: {ram}, {disk}, at least {limits.min_tokens_per_second:g} tokens/s."


def _facts(model: ZooModel) -> str:
    known, config = model.known, model.known.config
    head = "no head" if config.is_embedding else "tied" if config.tie_word_embeddings else "head apart"
    active = f", {model.active_weights / 1e9:.3g} G of them for a token" if config.moe else ""
    rows = [
        ("on the hub", known.hub_id),
        ("kind", known.kind + ("" if known.thinks is None else f", thinks: {_THINKS[known.thinks]}")),
        ("licence", known.license),
        ("weights", f"{model.weights / 1e9:.4g} G{active}"),
        ("shape", f"{config.num_hidden_layers} layers of {config.hidden_size}, {config.num_attention_heads} heads "
                  f"({config.num_key_value_heads} KV) of {config.head_dim}, vocabulary {config.vocab_size}, {head}"),
        ("context", f"{config.context_length} tokens"),
        ("download", f"{known.download_bytes / 1e9:.1f} GB, bfloat16"),
    ]  # fmt: skip
    if config.moe:
        moe = config.moe
        experts = f"{moe.num_experts} of width {moe.moe_intermediate_size}, {moe.num_experts_per_tok} a token"
        rows.insert(5, ("experts", experts))
    if known.quantized:
        rows.append(("official quantized", ", ".join(known.quantized.values())))
    return "\n".join(f"{name}: {value}" for name, value in rows)


def _notes(machine: ThisMachine, more: str) -> str:
    slow = f" {machine.slow_block_products}; the speeds above do not count that." if machine.slow_block_products else ""
    return (
        f"Predicted for {machine.threads} threads, {machine.bandwidth / 1e9:.1f} GB/s a core and "
        f"{machine.products / 1e9:.0f} GFLOP/s, measured just now: on a busy machine all of it is slower. Make is "
        "`q3edge build` with calibration, without the download and the comparison with the float model that follows."
        f"{slow} {more}"
    ).rstrip()
