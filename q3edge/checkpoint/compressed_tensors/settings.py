"""Schemes of a model's tensors <-> the `quantization_config` that compressed-tensors expects in config.json.

Format: compressed_tensors.quantization.QuantizationConfig. Reading accepts exactly what q3edge writes, no more: the
targets are compared, never run as regular expressions of an unknown file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from q3edge.architecture.tensors import EMBEDDING, LM_HEAD
from q3edge.checkpoint.compressed_tensors.layout import format_of
from q3edge.errors import InputError, UsageError
from q3edge.quantization.scheme import Activations, Scales, Scheme

METHOD = "compressed-tensors"
_OTHERS = "q3edge reads only the quantized folders that it writes: start from the original model"
_SCALE_DTYPES: Mapping[str, Scales] = {"torch.float16": "float16", "torch.float32": "float32"}  # not named: the default
_FIELDS = {"quant_method", "format", "quantization_status", "ignore", "config_groups"}  # other tools write more
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def quantization_config(schemes: Mapping[str, Scheme | None], tied: bool) -> dict[str, Any]:
    """JSON object for tensor name -> scheme. A tied head is declared like the embedding, whose codes it uses."""
    groups: dict[tuple[Scheme, str], list[str]] = {}
    for name, scheme in schemes.items():
        if scheme is not None:
            modules = groups.setdefault((scheme, format_of(name, scheme)), [])
            modules.append(_module(name))
            if tied and name == EMBEDDING:
                modules.append(_module(LM_HEAD))
    everywhere = _uniform_patterns(groups.values(), [_module(name) for name in schemes])
    formats = sorted({layout for _, layout in groups})
    return {
        "quant_method": METHOD,
        "format": formats[0] if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "ignore": [],
        "config_groups": {
            f"group_{number}": _group(_targets(modules, everywhere), scheme, layout)
            for number, ((scheme, layout), modules) in enumerate(groups.items())
        },
    }


def read_schemes(settings: object, names: Iterable[str], source: str) -> dict[str, Scheme | None]:
    """Read tensor name -> scheme from a `quantization_config`; InputError if q3edge would not have written it so."""
    if not isinstance(settings, Mapping) or settings.get("quant_method") != METHOD:
        raise InputError(f"{source}: quantization_config: expected quant_method {METHOD!r}; {_OTHERS}")
    groups = settings.get("config_groups")
    if not isinstance(groups, Mapping):
        raise InputError(f"{source}: config_groups: expected an object; {_OTHERS}")
    by_target: dict[str, Scheme] = {}
    for label, group in groups.items():
        targets, scheme = _read_group(group, f"{source}: config_groups.{label}")
        by_target |= dict.fromkeys(targets, scheme)
    schemes = {name: by_target.get(_module(name)) or by_target.get(_pattern(_module(name))) for name in names}
    known = {form for name in (*schemes, LM_HEAD) for form in (_module(name), _pattern(_module(name)))}
    if unknown := sorted(set(by_target) - known):
        raise InputError(f"{source}: target {unknown[0]!r}: no tensor of this model; {_OTHERS}")
    return schemes


def writes_so(settings: object) -> bool:
    """Tell whether a `quantization_config` has the fields that q3edge writes, and none that other tools add."""
    return isinstance(settings, Mapping) and set(settings) == _FIELDS


def check_supported(schemes: Mapping[str, Scheme | None]) -> None:
    """Raise UsageError for what the layout cannot express: nothing quantized, or an embedding's rounded activations."""
    if not any(schemes.values()):
        raise UsageError("the recipe quantizes no tensor; use the float model as it is")
    table = schemes.get(EMBEDDING)
    if table is not None and table.activations != "float":
        raise UsageError(f"{EMBEDDING}: int8_per_token activations do not apply to an embedding; choose a group size")


def _group(targets: list[str], scheme: Scheme, layout: str) -> dict[str, Any]:
    group: dict[str, Any] = {
        "targets": targets,
        "format": layout,
        "weights": {
            "num_bits": scheme.bits,
            "type": "int",
            "symmetric": scheme.symmetric,
            "strategy": "channel" if scheme.group_size is None else "group",
            "group_size": scheme.group_size,
            "dynamic": False,
        },
    }
    if scheme.states_scales:
        group["weights"]["scale_dtype"] = f"torch.{scheme.scales}"
    if scheme.activations == "int8_per_token":
        group["input_activations"] = {
            "num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True,
        }  # fmt: skip
    return group


def _read_group(group: object, where: str) -> tuple[list[str], Scheme]:
    refusal = InputError(f"{where}: not a group of quantized weights as q3edge writes it; {_OTHERS}")
    if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
        raise refusal
    targets, weights = group.get("targets"), group["weights"]
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise refusal
    bits, size, symmetric = (weights.get(key) for key in ("num_bits", "group_size", "symmetric"))
    if type(bits) is not int or type(size) not in (int, type(None)) or not isinstance(symmetric, bool):
        raise refusal
    try:
        activations: Activations = "int8_per_token" if "input_activations" in group else "float"
        scales = _SCALE_DTYPES.get(str(weights.get("scale_dtype")), "int8")
        scheme = Scheme(bits, size, symmetric, activations, scales)
    except UsageError as error:
        raise InputError(f"{where}: {error}") from None
    if group != _group(targets, scheme, str(group.get("format"))):
        raise refusal
    return targets, scheme


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _pattern(module: str) -> str:
    """Target that matches this module in every layer (and every expert): 're:model\\.layers\\.\\d+\\....$'."""
    return "re:" + r"\d+".join(re.escape(part) for part in _NUMBER.split(module)) + "$"


def _uniform_patterns(groups: Iterable[list[str]], modules: list[str]) -> set[str]:
    """Patterns that match modules of one group only, and all of them."""
    total: dict[str, int] = {}
    for module in modules:
        total[_pattern(module)] = total.get(_pattern(module), 0) + 1
    uniform = set()
    for group in groups:
        patterns = [_pattern(module) for module in group]
        uniform |= {pattern for pattern in set(patterns) if patterns.count(pattern) == total.get(pattern)}
    return uniform


def _targets(modules: list[str], uniform: set[str]) -> list[str]:
    """Targets of a group: one pattern for modules alike in every layer, names for the rest."""
    forms = (_pattern(m) if _NUMBER.search(m) and _pattern(m) in uniform else m for m in modules)
    return list(dict.fromkeys(forms))
