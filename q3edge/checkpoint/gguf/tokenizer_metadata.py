"""The tokenizer in a GGUF file's metadata <-> tokenizer.json of the tokenizers library; chat template, end tokens.

llama.cpp names a way to split texts before the merges (tokenizer.ggml.pre); only those that are known here are read and
written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from q3edge.architecture.fields import shown
from q3edge.artifact.side_files import (
    CHAT_TEMPLATE_FILE,
    GENERATION_CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
)
from q3edge.checkpoint.gguf.model_metadata import sampling_settings, token_ids
from q3edge.checkpoint.gguf.writer import Value
from q3edge.errors import InputError

_PREFIX = "tokenizer.ggml."
TEMPLATE_KEY: Final = "tokenizer.chat_template"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)  # ggml's enum llama_token_type
_END_TOKENS = ("<|im_end|>", "<|endoftext|>")  # that llama.cpp stops at too, whatever the metadata names
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NFC = {"type": "NFC"}
_SPLITS: Final[Mapping[str, Mapping[str, Any]]] = {  # tokenizer.ggml.pre -> parts of tokenizer.json
    "qwen2": {
        "normalizer": _NFC,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": _QWEN2_WORDS}, "behavior": "Isolated", "invert": False},
                _BYTE_LEVEL,
            ],
        },
    },
    "gpt-2": {"normalizer": None, "pre_tokenizer": {**_BYTE_LEVEL, "use_regex": True}},
}


class NoTokenizerError(Exception):
    """The metadata has no tokenizer that can be rebuilt; the message says why, in words that follow "as"."""


def read_tokenizer(metadata: Mapping[str, Any], source: str) -> dict[str, str]:
    """Make tokenizer.json, tokenizer_config.json and, if there is one, the chat template; file name -> content.

    NoTokenizerError: there is none, or one of another kind. InputError: it is damaged.
    """
    tokens, types, merges = _vocabulary(metadata, source)
    split = _SPLITS[str(metadata[_PREFIX + "pre"])]
    added = [
        {
            "id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": types[index] == _CONTROL,
        }
        for index, token in enumerate(tokens) if types[index] in (_CONTROL, _USER_DEFINED)
    ]  # fmt: skip
    special = {entry["content"] for entry in added}
    vocabulary = {
        token: index for index, token in enumerate(tokens) if types[index] != _UNUSED and token not in special
    }
    pairs = [_pair(merge, vocabulary, source) for merge in merges]
    document = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **split,
        "post_processor": _post_processor(metadata, tokens, source), "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocabulary, "merges": pairs,
        },
    }  # fmt: skip
    template = metadata.get(TEMPLATE_KEY)
    if template is not None and not isinstance(template, str):
        raise InputError(f"{source}: {TEMPLATE_KEY} = {shown(template)}: expected a text")
    files = {TOKENIZER_FILE: document, TOKENIZER_CONFIG_FILE: _tokenizer_config(metadata, tokens, source)}
    texts = {name: json.dumps(content, ensure_ascii=False) for name, content in files.items()}
    return texts | ({} if template is None else {CHAT_TEMPLATE_FILE: template})


def read_generation_config(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Make generation_config.json: tokens that end an answer, as llama.cpp finds them, and how to sample."""
    ids = token_ids(metadata)
    tokens, types = metadata.get(_PREFIX + "tokens"), metadata.get(_PREFIX + "token_type")
    named = [ids.pop("eos_token_id", None), metadata.get(_PREFIX + "eot_token_id")]
    if isinstance(tokens, list) and isinstance(types, list):
        named += [tokens.index(text) for text in _END_TOKENS if text in tokens and _is_control(tokens, types, text)]
    ends = [*dict.fromkeys(index for index in named if index is not None)]
    settings = {**ids, **({"eos_token_id": ends} if ends else {}), **sampling_settings(metadata)}
    return {GENERATION_CONFIG_FILE: json.dumps(settings, indent=1)} if settings else {}


def write_tokenizer(tokenizer: Mapping[str, Any], vocab_size: int, source: str) -> dict[str, Value]:
    """Make the metadata of a tokenizer.json, filled up to `vocab_size` tokens; `source` names it in errors.

    InputError: it splits texts in a way that llama.cpp has no name for, or is no byte-level BPE.
    """
    model = tokenizer.get("model")
    if not isinstance(model, Mapping) or model.get("type") != "BPE" or model.get("byte_fallback"):
        raise InputError(f"{source}: expected a byte-level BPE tokenizer, the only one that Qwen3 has in llama.cpp")
    pre = _name_of_split(tokenizer)
    if pre is None:
        raise InputError(f"{source}: splits texts in a way that llama.cpp has no name for; expected Qwen's tokenizer")
    tokens = [f"[PAD{index}]" for index in range(vocab_size)]
    types = [_UNUSED] * vocab_size
    for token, index in model["vocab"].items():
        tokens[index], types[index] = token, _NORMAL
    for added in tokenizer.get("added_tokens") or []:
        tokens[added["id"]], types[added["id"]] = added["content"], _CONTROL if added["special"] else _USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    found: dict[str, Value] = {
        "model": "gpt2", "pre": pre, "tokens": tokens, "token_type": types, "merges": merges,
    }  # fmt: skip
    return {_PREFIX + key: value for key, value in found.items()}


def special_ids(**ids: int | bool | None) -> dict[str, Value]:
    """Metadata of special tokens: bos_token_id=1 ...; None is left out."""
    return {_PREFIX + name: value for name, value in ids.items() if value is not None}


def _vocabulary(metadata: Mapping[str, Any], source: str) -> tuple[list[str], list[int], list[str]]:
    model, pre = metadata.get(_PREFIX + "model"), metadata.get(_PREFIX + "pre")
    if model in (None, "none", "no_vocab"):
        raise NoTokenizerError("the file has none")
    if model != "gpt2" or pre not in _SPLITS:
        raise NoTokenizerError(f"the file has one of another kind ({shown(model)}, {shown(pre)})")
    tokens, merges = metadata.get(_PREFIX + "tokens"), metadata.get(_PREFIX + "merges")
    types = metadata.get(_PREFIX + "token_type")
    for key, found in (("tokens", tokens), ("merges", merges)):
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise InputError(f"{source}: {_PREFIX}{key}: expected a list of texts")
    assert isinstance(tokens, list)
    assert isinstance(merges, list)
    types = [_NORMAL] * len(tokens) if types is None else types
    if not isinstance(types, list) or len(types) != len(tokens) or not all(type(kind) is int for kind in types):
        raise InputError(f"{source}: {_PREFIX}token_type: expected a number for each of the {len(tokens)} tokens")
    if len(set(tokens)) < len(tokens):
        raise InputError(f"{source}: {_PREFIX}tokens: a token is there twice; the file is damaged, download it again")
    return tokens, types, merges


def _is_control(tokens: list[Any], types: list[Any], text: str) -> bool:
    index = tokens.index(text)
    return index < len(types) and types[index] == _CONTROL


def _pair(merge: str, vocabulary: Mapping[str, int], source: str) -> list[str]:
    first, _, second = merge.partition(" ")
    if not (first in vocabulary and second in vocabulary and first + second in vocabulary):
        raise InputError(f"{source}: {_PREFIX}merges: {merge!r} is of no two tokens; the file is damaged")
    return [first, second]


def _token(metadata: Mapping[str, Any], name: str, tokens: list[str], source: str) -> str | None:
    index = metadata.get(f"{_PREFIX}{name}_token_id")
    if index is None:
        return None
    if type(index) is not int or not 0 <= index < len(tokens):
        raise InputError(f"{source}: {_PREFIX}{name}_token_id = {shown(index)}: expected one of {len(tokens)} tokens")
    return tokens[index]


def _post_processor(metadata: Mapping[str, Any], tokens: list[str], source: str) -> dict[str, Any]:
    """What is put around every text: nothing, as in Qwen3, or a first or last token, as in Qwen3-Embedding."""
    flags = {name: metadata.get(f"{_PREFIX}add_{name}_token") is True for name in ("bos", "eos")}
    around = {name: _token(metadata, name, tokens, source) if on else None for name, on in flags.items()}
    if around["bos"] is None and around["eos"] is None:
        return _BYTE_LEVEL
    special = {token: tokens.index(token) for token in around.values() if token is not None}

    def pieces(text: str, kind: int) -> list[dict[str, Any]]:
        sequence = {"Sequence": {"id": text, "type_id": kind}}
        begin = [] if around["bos"] is None else [{"SpecialToken": {"id": around["bos"], "type_id": kind}}]
        end = [] if around["eos"] is None else [{"SpecialToken": {"id": around["eos"], "type_id": kind}}]
        return [*begin, sequence, *end]

    return {
        "type": "Sequence",
        "processors": [
            _BYTE_LEVEL,
            {
                "type": "TemplateProcessing",
                "single": pieces("A", 0),
                "pair": [*pieces("A", 0), *pieces("B", 1)],
                "special_tokens": {
                    token: {"id": token, "ids": [index], "tokens": [token]} for token, index in special.items()
                },
            },
        ],
    }


def _tokenizer_config(metadata: Mapping[str, Any], tokens: list[str], source: str) -> dict[str, Any]:
    adds_bos = metadata.get(_PREFIX + "add_bos_token") is True
    names = {"eos_token": "eos", "pad_token": "padding", **({"bos_token": "bos"} if adds_bos else {})}
    found = {name: _token(metadata, own, tokens, source) for name, own in names.items()}
    of_qwen = metadata.get(_PREFIX + "pre") == "qwen2"
    return {
        "add_bos_token": adds_bos,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "Qwen2Tokenizer" if of_qwen else "PreTrainedTokenizerFast",
        **{name: token for name, token in found.items() if token is not None},
    }


def _name_of_split(tokenizer: Mapping[str, Any]) -> str | None:
    """Name of the way in which a tokenizer.json splits texts; offsets change no ids, and llama.cpp has no NFC."""
    wanted = _plain(tokenizer.get("pre_tokenizer"))
    for name, parts in _SPLITS.items():
        if wanted == _plain(parts["pre_tokenizer"]) and tokenizer.get("normalizer") in (None, _NFC):
            return name
    return None


def _plain(step: Any) -> Any:
    """A pre-tokenizer without what changes no ids; a sequence of one step is that step."""
    if isinstance(step, list):
        return [_plain(part) for part in step]
    if not isinstance(step, Mapping):
        return step
    found = {key: _plain(value) for key, value in step.items() if key != "trim_offsets"}
    steps = found.get("pretokenizers")
    return steps[0] if found.get("type") == "Sequence" and isinstance(steps, list) and len(steps) == 1 else found
