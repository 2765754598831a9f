"""Settings that a checkpoint's own files ask for, and notices of what is not followed.

generation_config.json, the end tokens of config.json, and the one of tokenizer_config.json, read for plain text as
transformers reads them. Where they are silent on how to sample, conversations follow Qwen's recommendations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import Notice
from q3edge.artifact.side_files import GENERATION_CONFIG_FILE
from q3edge.errors import InputError, UsageError
from q3edge.runtime.generation.setting_table import DEFAULT_MAX_NEW_TOKENS
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.text.template_file import end_token
from q3edge.storage.json_files import read_json_object

_TOP_K = 50  # transformers' default where it samples and the file names none
_UNSET_LENGTH = 20  # transformers' own default of max_length, which older versions wrote into every file
# What Qwen recommends for answers that think and for those that do not (model card of Qwen3, "Best Practices").
RECOMMENDED: Mapping[bool, Mapping[str, float]] = {
    True: {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.0},
    False: {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.0},
}
# Fields that would change the text, and the values with which they do not.
_NOT_FOLLOWED: Mapping[str, tuple[object, ...]] = {
    "num_beams": (1,), "num_beam_groups": (1,), "penalty_alpha": (0,), "typical_p": (1,), "epsilon_cutoff": (0,),
    "eta_cutoff": (0,), "top_h": (), "bad_words_ids": (), "sequence_bias": (), "forced_bos_token_id": (),
    "forced_eos_token_id": (), "exponential_decay_length_penalty": (), "guidance_scale": (1,), "max_time": (),
    "watermarking_config": (), "dola_layers": (), "token_healing": (False,), "remove_invalid_values": (False,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CheckpointSettings:
    """Settings of a checkpoint, and what it asks for in vain.

    settings: for plain text. conversation: for answers in a conversation, by whether they think.
    """

    settings: GenerationSettings
    conversation: Mapping[bool, GenerationSettings]
    notices: tuple[Notice, ...] = ()


def checkpoint_settings(
    folder: Path, config: Qwen3Config, id_of: Callable[[str], int | None] = lambda _token: None
) -> CheckpointSettings:
    """Read the settings of the checkpoint in `folder`; a field that is null is one that is not there.

    id_of: token id of the text of tokenizer_config.json's `eos_token`, which ends answers too. Without a
    generation_config.json: greedy, and as Qwen recommends in conversations. InputError: a value of the wrong type or
    out of range.
    """
    path = folder / GENERATION_CONFIG_FILE
    raw = read_json_object(path) if path.exists() else {}
    given = {name: value for name, value in raw.items() if value is not None}
    try:
        stops, notices = _stop_ids(folder, given, config, id_of)
        settings = GenerationSettings(stop_token_ids=stops, **_named(given))
        settings.check_ids(config.vocab_size)
        conversation = {thinks: replace(settings, **_sampled(given, thinks)) for thinks in RECOMMENDED}
    except (UsageError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: {error}; correct the file") from None
    ignored = [name for name, neutral in _NOT_FOLLOWED.items() if name in given and given[name] not in neutral]
    if ignored:
        detail = (
            f"{GENERATION_CONFIG_FILE}: {', '.join(ignored)} have no effect here; answers differ from transformers'"
        )
        notices = (*notices, Notice("generation-setting-ignored", len(ignored), detail))
    return CheckpointSettings(settings, conversation, notices)


def _named(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `GenerationSettings` that the file decides."""
    found: dict[str, Any] = {}
    if given.get("do_sample") is True:
        found = {"temperature": 1.0, "top_k": _TOP_K, **_given(given, RECOMMENDED[True])}
    for name in ("repetition_penalty", "no_repeat_ngram_size", "min_length", "min_new_tokens", "max_new_tokens"):
        found |= _given(given, [name])
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        if name in given:
            found[name] = _ids(name, given[name])
    if "stop_strings" in given:
        found["stop_strings"] = given["stop_strings"]
    if "min_new_tokens" in found:
        found.pop("min_length", None)
    length = _finite("max_length", given.get("max_length", _UNSET_LENGTH))
    if "max_new_tokens" not in found and length != _UNSET_LENGTH:
        found |= {"max_length": length, "max_new_tokens": max(int(length), 1)}
    return {"max_new_tokens": DEFAULT_MAX_NEW_TOKENS} | found


def _sampled(given: Mapping[str, Any], thinks: bool) -> dict[str, Any]:
    """Fields by which a conversation is sampled: none where the file says that nothing is."""
    if given.get("do_sample") is False:
        return {}
    return {**RECOMMENDED[thinks], **_given(given, RECOMMENDED[thinks])}


def _given(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: _finite(name, given[name]) for name in names if name in given}


def _stop_ids(
    folder: Path, given: Mapping[str, Any], config: Qwen3Config, id_of: Callable[[str], int | None]
) -> tuple[frozenset[int], tuple[Notice, ...]]:
    named = frozenset((*_ids("eos_token_id", given.get("eos_token_id", [])), *config.eos_token_ids))
    notices: list[Notice] = []
    if foreign := sorted(token for token in named if not 0 <= token < config.vocab_size):
        detail = f"the end token {foreign[0]} is none of the model's, which has ids 0 to {config.vocab_size - 1}"
        notices.append(Notice("end-token-unknown", len(foreign), detail))
    stops = named - frozenset(foreign)
    text = end_token(folder)
    own = id_of(text) if text is not None else None
    if own is not None and own not in stops:
        detail = f"answers end at {text} too, which only tokenizer_config.json calls an end token"
        notices.append(Notice("end-token-added", 1, detail))
        stops |= {own}
    return stops, tuple(notices)


def _finite(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} = {value!r}: expected a number")
    if not math.isfinite(value):
        raise ValueError(f"{name} = {value!r}: expected a finite number")
    return value


def _ids(name: str, value: Any) -> Iterable[int]:
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise ValueError(f"{name} = {value!r}: expected token ids")
    return ids
