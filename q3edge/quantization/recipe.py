"""`Recipe`: the scheme of each tensor. Defines the TOML format, the named formats and the rule lookup."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import EMBEDDING, LM_HEAD, tensor_shapes
from q3edge.errors import InputError, UsageError
from q3edge.formats import CACHE_TYPES, FORMATS, CacheType
from q3edge.quantization.scheme import Scheme
from q3edge.storage.digests import json_digest
from q3edge.storage.text_files import parse_toml, read_utf8

AUTO = "auto"  # the method is decided by the model and by what there is to calibrate with
KEEP = "keep"  # the codes that a checkpoint has already; what has none as by AUTO
METHODS = (AUTO, KEEP, "gptq", "rtn")
DEFAULT_GROUP_SIZE = {"int4-mixed": 32, "int4": 32, "int4-fast": 256, "int8": 16, "int8-dynamic": None}
_LARGEST_TABLE_GROUP = 32
_LINEAR = "model.layers.*_proj"
_EMBEDDING_AND_HEAD = ("model.embed_tokens", "lm_head")
_FILLED_IN = (_LINEAR, *_EMBEDDING_AND_HEAD)  # the rules of every format
_DOWN = "model.layers.*.mlp.down_proj"
_ATTENTION = "model.layers.{}.self_attn.*_proj"
_EARLY = 4  # of a mixture of experts, the first of so many parts of the layers, whose attention gets more bits
_MORE_BITS = Scheme(8, 128)  # of int4-mixed: onnxruntime's fastest 8 bits for one row (docs/lab-log.md)
_FLAGS = ("fit", "spends_head")  # of a rule
_NEVER_QUANTIZED = ("*norm", "*.mlp.gate")  # norms are vectors; an expert router is tiny and decides everything


@dataclass(frozen=True, slots=True)
class Rule:
    """Rule: tensors whose name matches the glob `match` get `scheme`; None keeps them float.

    A name counts with and without its ".weight". fit: a width that the scheme's group size does not divide gets the
    largest smaller one that does. spends_head: only the outermost layers that match, as many as are paid for by the
    bytes that a head of 8 bits would take more than the recipe's (`fitted_to` knows the model, and names them).
    """

    match: str
    scheme: Scheme | None
    fit: bool = False
    spends_head: bool = False

    @property
    def flags(self) -> dict[str, bool]:
        """The flags that are set, by name."""
        return {name: True for name in _FLAGS if getattr(self, name)}

    def matches(self, tensor: str) -> bool:
        """Tell whether the rule is for the tensor with this full name."""
        return any(fnmatchcase(name, self.match) for name in (tensor.removesuffix(".weight"), tensor))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Recipe of ordered rules: the first that matches a tensor decides; others stay float. `method` rounds the weights.

    kv_cache: type of keys and values while the model runs.
    """

    rules: tuple[Rule, ...]
    method: str = AUTO
    kv_cache: CacheType = "float32"

    @classmethod
    def for_format(cls, format_name: str, group_size: int | None = None, symmetric: bool | None = None) -> Recipe:
        """Recipe of a named format. Embedding and head are 8-bit, in groups of at most 32, but for 4 bits in some.

        int4-fast has them as all else. int4-mixed has them in 4 bits, and spends the bytes that the head thereby saves
        on down projections of 8 bits; what it is for a mixture of experts, `fitted_to` decides.
        """
        if not isinstance(format_name, str):
            raise TypeError(f"format: expected a str, one of {', '.join(FORMATS)}, not {type(format_name).__name__}")
        if format_name not in FORMATS:
            raise UsageError(f"format {format_name!r}: expected one of {', '.join(FORMATS)}")
        size = DEFAULT_GROUP_SIZE[format_name] if group_size is None else group_size
        if format_name in ("int4-mixed", "int4", "int4-fast"):
            scheme = Scheme(4, size, False if symmetric is None else symmetric)  # asymmetric: more accurate per byte
        elif format_name == "int8":
            scheme = Scheme(8, size, True if symmetric is None else symmetric)
        else:
            if group_size is not None or symmetric is False:
                raise UsageError(
                    "int8-dynamic has one symmetric scale per row: leave out the group size and --asymmetric"
                )
            scheme = Scheme(8, None, activations="int8_per_token")
        if format_name == "int4-fast":
            return cls(tuple(Rule(name, scheme, fit=True) for name in _FILLED_IN))
        if format_name == "int4-mixed":
            down = Rule(_DOWN, _MORE_BITS, fit=True, spends_head=True)
            return cls((down, *(Rule(name, scheme) for name in _FILLED_IN)))
        table = Scheme(8, min(size or _LARGEST_TABLE_GROUP, _LARGEST_TABLE_GROUP))
        return cls((Rule(_LINEAR, scheme), *(Rule(name, table) for name in _EMBEDDING_AND_HEAD)))

    @classmethod
    def for_vllm(cls) -> Recipe:
        """Recipe of what vLLM loads whole: symmetric 4 bits in groups of 32.

        Embedding and head stay float. docs/decisions/2026-11-30-what-quantize-for-vllm-chooses.md says why.
        """
        return cls((Rule(_LINEAR, Scheme(4, 32)),))

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a TOML recipe: optional `format`, `group_size`, `symmetric`, `method`, `kv_cache`, `[[rule]]` tables.

        A rule has `match` and either `float = true` or the fields of Scheme, and maybe `fit`. Rules come before those
        of `format`.
        """
        raw = parse_toml(read_utf8(path, "a TOML recipe"), path)
        try:
            return cls._from_toml(raw)
        except (UsageError, InputError) as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def _from_toml(cls, raw: Mapping[str, Any]) -> Recipe:
        if unknown := sorted(set(raw) - {"format", "group_size", "symmetric", "method", "kv_cache", "rule"}):
            raise InputError(
                f"unknown fields {unknown}; expected format, group_size, symmetric, method, kv_cache, [[rule]]"
            )
        entries, method, kv_cache = raw.get("rule", []), raw.get("method", AUTO), raw.get("kv_cache", "float32")
        if not isinstance(entries, list):
            raise InputError(f"rule = {entries!r}: expected [[rule]] tables")
        if method not in METHODS:
            raise InputError(f"method = {method!r}: expected one of {', '.join(METHODS)}")
        if kv_cache not in CACHE_TYPES:
            raise InputError(f"kv_cache = {kv_cache!r}: expected one of {', '.join(CACHE_TYPES)}")
        rules = tuple(_read_rule(number, entry) for number, entry in enumerate(entries, 1))
        if "format" in raw:
            if not isinstance(raw["format"], str):
                raise InputError(f"format = {raw['format']!r}: expected one of {', '.join(FORMATS)}")
            rules += cls.for_format(raw["format"], raw.get("group_size"), raw.get("symmetric")).rules
        return cls(rules, method, kv_cache)

    def scheme_for(self, tensor: str, width: int) -> Scheme | None:
        """Scheme of a tensor by its full name and K; None keeps it float. UsageError: its groups do not fit."""
        if _is_never_quantized(tensor):
            return None
        rule = next((rule for rule in self.rules if rule.matches(tensor)), None)
        if rule is None or rule.scheme is None:
            return None
        scheme = rule.scheme.fitted(width) if rule.fit else rule.scheme
        try:
            scheme.groups(width)
        except UsageError as error:
            raise UsageError(f"{tensor}: {error}") from None
        return scheme

    def for_model(self, config: Qwen3Config) -> Recipe:
        """Check every rule against a model's tensors; returns the recipe with the names that the model has.

        In a model with tied weights, a rule for lm_head that comes before any for the embedding is one for the
        embedding: they are one tensor. InputError: a rule matches no tensor, or gives a scheme to norms or routers
        alone, which stay float.
        """
        names = list(tensor_shapes(config))
        tied = config.tie_word_embeddings
        rules: list[Rule] = []
        for number, rule in enumerate(self.rules, 1):
            matched = [name for name in (*names, *((LM_HEAD,) if tied else ())) if rule.matches(name)]
            if not matched and not (rule.spends_head and rule.match == _DOWN):  # that nobody wrote: experts have none
                raise InputError(f"recipe rule {number}, match = {rule.match!r}: {_matches_nothing(rule.match, names)}")
            if rule.scheme is not None and matched and all(map(_is_never_quantized, matched)):
                raise InputError(
                    f"recipe rule {number}, match = {rule.match!r}: norms and routers stay float; leave the rule out"
                )
            if tied and LM_HEAD in matched and not any(known.matches(EMBEDDING) for known in (*rules, rule)):
                rules.append(replace(rule, match=EMBEDDING.removesuffix(".weight")))
            rules.append(rule)
        return replace(self, rules=tuple(rules))

    def without_effect(self, config: Qwen3Config) -> dict[int, str]:
        """Rules that decide no tensor of a model, as earlier ones decide all that they match: number -> `match`.

        Those that a format fills in behind them are meant to be overridden, and are left out.
        """
        tied = config.tie_word_embeddings
        names = [*tensor_shapes(config), *((LM_HEAD,) if tied else ())]
        own = self.rules[: -len(_FILLED_IN)] if self._ends_with_a_format() else self.rules
        own = own[:-1] if own and own[-1].spends_head else own
        decided = set[str]()
        found = {}
        for number, rule in enumerate(own, 1):
            matched = {name for name in names if rule.matches(name) and not _is_never_quantized(name)}
            if tied and matched & {EMBEDDING, LM_HEAD}:
                matched |= {EMBEDDING, LM_HEAD}
            if matched and matched <= decided:
                found[number] = rule.match
            decided |= matched
        return found

    def _ends_with_a_format(self) -> bool:
        return tuple(rule.match for rule in self.rules[-len(_FILLED_IN) :]) == _FILLED_IN

    def resolve(self, config: Qwen3Config) -> dict[str, Scheme | None]:
        """Resolve the scheme of every tensor, by name. UsageError names a tensor that the group size does not fit."""
        return {name: self.scheme_for(name, shape[-1]) for name, shape in tensor_shapes(config).items()}

    def fitted_to(self, config: Qwen3Config) -> tuple[Recipe, tuple[str, ...]]:
        """Fit int8-dynamic and int4-mixed to a model; returns also the names of tables that stay float.

        int4-mixed: the layers that a rule with `spends_head` is for are named; in a mixture of experts it is int4 with
        the attention of the first quarter of the layers in 8 bits.
        int8-dynamic: its matrices have one scale per row, its embedding and head have groups of 32, which nobody chose:
        a width that 32 does not divide gets 16, or else a float table. Other recipes are returned as they are.
        """
        if any(rule.spends_head for rule in self.rules):
            return (self if config.moe is None else self._for_experts(config.num_hidden_layers))._with_head_spent(
                config
            ), ()
        width, table = config.hidden_size, Scheme(8, _LARGEST_TABLE_GROUP)
        by_row = any(rule.scheme is not None and rule.scheme.group_size is None for rule in self.rules)
        if not by_row or width % _LARGEST_TABLE_GROUP == 0:
            return self, ()
        narrower = table.fitted(width) if table.fits(width) else None
        chosen = [rule.match in _EMBEDDING_AND_HEAD and rule.scheme == table for rule in self.rules]
        rules = (replace(rule, scheme=narrower) if changed else rule for rule, changed in zip(self.rules, chosen))
        fitted = replace(self, rules=tuple(rules))
        if narrower is not None or fitted == self:
            return fitted, ()
        return fitted, (EMBEDDING,) if config.tie_word_embeddings else (EMBEDDING, LM_HEAD)

    def _for_experts(self, layers: int) -> Recipe:
        """Copy with the rules of int4, and the attention of early layers in 8 bits, in place of those of int4-mixed.

        What is rounded there sends tokens to other experts in all later layers, and it is a hundredth of the bytes.
        Experts of a layer have one width, so that more bits for them would take as many bytes again.
        """
        if not self._ends_with_a_format():
            return self
        own, linear = self.rules[: -len(_FILLED_IN)], self.rules[-len(_FILLED_IN)].scheme
        if linear is None or not own or own[-1].match != _DOWN:
            return self
        filled_in = Recipe.for_format("int4", linear.group_size, linear.symmetric).rules
        early = (Rule(_ATTENTION.format(number), _MORE_BITS, fit=True) for number in range(-(-layers // _EARLY)))
        return replace(self, rules=(*own[:-1], *early, *filled_in))

    def _with_head_spent(self, config: Qwen3Config) -> Recipe:
        """Copy whose rules with `spends_head` name their layers, unless they are for all."""
        rules: list[Rule] = []
        for number, rule in enumerate(self.rules):
            if not rule.spends_head:
                rules.append(rule)
                continue
            names = self._paid_by_head(rule, replace(self, rules=self.rules[number + 1 :]), config)
            schemes = {name: self.scheme_for(name, tensor_shapes(config)[name][-1]) for name in names}
            everywhere = len(names) == config.num_hidden_layers and len(set(schemes.values())) == 1
            matches = [rule.match] if everywhere else [name.removesuffix(".weight") for name in names]
            rules += map(Rule, matches, schemes.values())
        return replace(self, rules=tuple(rules))

    def _paid_by_head(self, rule: Rule, later: Recipe, config: Qwen3Config) -> list[str]:
        """Names of matrices that take `rule` in place of `later` rules, outermost layers first, which 4 bits hurt most.

        The bytes that a head of 8 bits would take more pay for them: a token reads no more than by int4.
        """
        shapes, head = tensor_shapes(config), EMBEDDING if config.tie_word_embeddings else LM_HEAD

        def more(name: str, scheme: Scheme | None, recipe: Recipe) -> int:
            """Bytes that a tensor takes more by `scheme` than by the recipe."""
            width, own = shapes[name][-1], recipe.scheme_for(name, shapes[name][-1])
            if scheme is None or own is None:
                return 0
            return scheme.fitted(width).stored_bytes(*shapes[name]) - own.stored_bytes(*shapes[name])

        # Earlier rules, if any match, decide: what they take costs and gains nothing here.
        names = [name for name in shapes if next((each for each in self.rules if each.matches(name)), None) is rule]
        left = more(head, Scheme(8, _LARGEST_TABLE_GROUP), self)
        chosen = set[str]()
        for layer in range(len(names)):
            name = names[-1 - layer // 2] if layer % 2 else names[layer // 2]
            left -= more(name, rule.scheme, later)
            if left < 0:
                break
            chosen.add(name)
        return [name for name in names if name in chosen]

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Recipe:
        """Recipe from the JSON object that `to_json` wrote; that of a float artifact has no rules.

        InputError: it is anything else.
        """
        try:
            rules = tuple(
                Rule(
                    str(r["match"]),
                    Scheme(**r["scheme"]) if r["scheme"] else None,
                    **{name: r.get(name, False) for name in _FLAGS},
                )
                for r in raw["rules"]
            )
            return cls(rules, raw["method"], raw.get("kv_cache", "float32"))
        except (TypeError, KeyError, AttributeError, UsageError) as error:
            raise InputError(f"q3edge.json: its recipe is not one of q3edge ({error}); make the folder again") from None

    def to_json(self) -> dict[str, Any]:
        """JSON object for manifests; `from_json` reads it back."""
        rules = [{"match": r.match, "scheme": r.scheme.to_json() if r.scheme else None} | r.flags for r in self.rules]
        return {"method": self.method, "kv_cache": self.kv_cache, "rules": rules}

    def to_toml(self) -> str:
        """TOML that `load` reads back as this recipe."""
        lines = [f'method = "{self.method}"', f'kv_cache = "{self.kv_cache}"']
        for rule in self.rules:
            settings = {"float": True} if rule.scheme is None else rule.scheme.to_json()
            settings |= rule.flags
            lines += ["", "[[rule]]", f"match = {json.dumps(rule.match)}"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items() if value is not None]
        return "\n".join([*lines, ""])

    def in_blocks(self, size: int | None) -> Recipe:
        """Copy for a format that stores a float16 scale with every `size` weights, whatever the scheme's is.

        Scales are float16 and groups have `size` weights: larger ones, or scales of 8 bits, would save nothing there.
        size: None leaves the groups as they are. A scale for a whole row stays one.
        """

        def changed(scheme: Scheme | None) -> Scheme | None:
            if scheme is None or scheme.group_size is None:
                return scheme
            return replace(scheme, group_size=size or scheme.group_size, scales="float16")

        return replace(self, rules=tuple(replace(rule, scheme=changed(rule.scheme)) for rule in self.rules))

    def in_two_bits(self) -> Recipe:
        """Copy with 2 bits in place of 4."""
        rules = (
            replace(rule, scheme=replace(rule.scheme, bits=2)) if rule.scheme and rule.scheme.bits == 4 else rule
            for rule in self.rules
        )
        return replace(self, rules=tuple(rules))

    @property
    def digest(self) -> str:
        """Digest, hex sha256 of the canonical JSON: recipes with the same rules in the same order have the same."""
        return json_digest(self.to_json())


def _is_never_quantized(tensor: str) -> bool:
    return any(fnmatchcase(tensor.removesuffix(".weight"), pattern) for pattern in _NEVER_QUANTIZED)


def _matches_nothing(match: str, names: Sequence[str]) -> str:
    """Sentence on a glob that matches no tensor, with the nearest names."""
    if match.startswith("re:"):
        return "regular expressions are not read; write a glob such as model.layers.*.mlp.down_proj"
    modules = list(dict.fromkeys(name.removesuffix(".weight") for name in (*names, LM_HEAD)))
    near = [module for module in modules if fnmatchcase(module, f"*{match}*")][:3]
    near = near or get_close_matches(match.removesuffix(".weight"), modules, n=3)
    said = "matches no tensor of this model"
    return f"{said}; did you mean {', '.join(near)}?" if near else f"{said}; names are like {modules[1]}"


def _read_rule(number: int, entry: object) -> Rule:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("match"), str):
        raise InputError(f'rule {number}: expected a table with match = "pattern"')
    settings = {key: value for key, value in entry.items() if key != "match"}
    if settings == {"float": True}:
        return Rule(entry["match"], None)
    if unknown := sorted(set(settings) - {*_FLAGS, *(f.name for f in fields(Scheme))}):
        raise InputError(f"rule {number} ({entry['match']}): unknown fields {unknown}")
    flags = {name: settings.pop(name, False) for name in _FLAGS}
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InputError(f"rule {number} ({entry['match']}): {name} = {value!r}: expected true or false")
    try:
        return Rule(entry["match"], Scheme(**{"group_size": None, **settings}), **flags)
    except TypeError:
        raise InputError(f"rule {number} ({entry['match']}): bits is missing; or write float = true") from None
