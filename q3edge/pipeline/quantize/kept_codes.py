"""Codes of a checkpoint that another tool quantized: which are kept as they are, and a recipe that says so."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from q3edge.architecture.tensors import tensor_shapes
from q3edge.artifact import Notice
from q3edge.checkpoint import Checkpoint
from q3edge.defaults import FORMAT
from q3edge.quantization.recipe import AUTO, KEEP, Recipe, Rule
from q3edge.quantization.scheme import Scales, Scheme

_DEFAULT = Recipe.for_format(FORMAT)
_DEFAULTS = (_DEFAULT.rules, _DEFAULT.in_blocks(32).rules)  # of ONNX models, of GGUF
_REST = Recipe.for_format("int8", 32)  # groups of 32, which all other programs have too
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class KeptCodes:
    """Matrices whose codes are kept, by name with their scheme, and the recipe of all tensors."""

    recipe: Recipe
    schemes: Mapping[str, Scheme]
    notices: tuple[Notice, ...]


def keep_codes(checkpoint: Checkpoint, recipe: Recipe) -> KeptCodes:
    """Choose the codes to keep: all that a scheme holds exactly, if the recipe's method is to keep any.

    Their rules come before the recipe's, which is for the rest; where nobody chose it, the rest gets 8 bits: it is what
    the other tool left float. A checkpoint that has none to keep is quantized as by "auto". Reads the scales and zero
    points of every matrix.
    """
    if recipe.method != KEEP:
        return KeptCodes(recipe, {}, _anew(checkpoint, [*checkpoint.matrices], "as a format or method was chosen"))
    matrices = checkpoint.matrices
    found = {name: matrix.scheme for name, matrix in matrices.items()}
    kept = _alike_experts({name: scheme for name, scheme in found.items() if scheme is not None})
    notices = _anew(checkpoint, [name for name in found if name not in kept])
    if not kept:
        return KeptCodes(replace(recipe, method=AUTO), {}, notices)
    of = sum(len(shape) > 1 for shape in tensor_shapes(checkpoint.config).values())
    tools = ", ".join(sorted({checkpoint.matrices[name].label for name in kept}))
    told = Notice("codes-kept", len(kept), f"codes kept: {len(kept)} of {of} matrices, as they are stored ({tools})")
    nearly = Counter((matrices[name].label, matrices[name].approximation) for name in kept)
    notices += tuple(
        Notice("codes-nearly-kept", count, f"matrices of {label} are kept but for rounding: {difference}")
        for (label, difference), count in nearly.items()
        if difference is not None
    )
    rest = _REST if recipe.rules in _DEFAULTS else recipe
    rules = (*_rules(kept, [*tensor_shapes(checkpoint.config)]), *rest.rules)
    return KeptCodes(replace(recipe, rules=rules), kept, (told, *notices))


def _alike_experts(kept: Mapping[str, Scheme]) -> dict[str, Scheme]:
    """Give the experts of a layer one scheme that holds all of their codes, as their operator needs it.

    Groups become the smallest, and zero points and float32 scales are stored where any expert has them; nothing is
    rounded. Experts of several widths of codes are left as they are.
    """
    layers: dict[str, list[str]] = {}
    for name in kept:
        layer, experts, _ = name.partition(".experts.")
        if experts:
            layers.setdefault(layer, []).append(name)
    joined = dict(kept)
    for names in layers.values():
        schemes = {kept[name] for name in names}
        sizes = [scheme.group_size for scheme in schemes if scheme.group_size is not None]
        if len({scheme.bits for scheme in schemes}) > 1 or len(sizes) < len(schemes):
            continue
        scales: Scales = "float32" if any(scheme.scales == "float32" for scheme in schemes) else "float16"
        one = Scheme(kept[names[0]].bits, min(sizes), all(scheme.symmetric for scheme in schemes), scales=scales)
        joined |= dict.fromkeys(names, one)
    return joined


def _anew(checkpoint: Checkpoint, names: Iterable[str], reason: str | None = None) -> tuple[Notice, ...]:
    """Notices of the matrices that are quantized a second time, by layout and reason (None: each matrix's own)."""
    matrices = (matrix for matrix in map(checkpoint.matrices.__getitem__, names) if not matrix.holds_floats)
    counts = Counter((matrix.label, reason or matrix.why_not) for matrix in matrices)
    return tuple(
        Notice("dequantized", count, f"matrices of {label} are read as floats and quantized anew ({why})")
        for (label, why), count in counts.items()
    )


def _rules(kept: Mapping[str, Scheme], names: Iterable[str]) -> list[Rule]:
    """Rules for the kept matrices: one where all of a kind, in every layer and expert, are kept alike."""
    kinds: dict[str, set[Scheme | None]] = {}
    for name in names:
        kinds.setdefault(_NUMBER.sub("*", name), set()).add(kept.get(name))
    rules: dict[str, Rule] = {}
    for name, scheme in kept.items():
        kind = _NUMBER.sub("*", name)
        match = (kind if len(kinds[kind]) == 1 else name).removesuffix(".weight")
        rules[match] = Rule(match, scheme)
    return [*rules.values()]
