"""Recipes: named formats, TOML rules, and the errors a person can make in them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import tensor_shapes
from q3edge.errors import InputError, UsageError
from q3edge.formats import FORMATS
from q3edge.quantization.recipe import Recipe, Rule
from q3edge.quantization.scheme import Scheme
from tests.helpers.models import MOE, tiny_config

CONFIG = Qwen3Config.from_dict(tiny_config())
Q_PROJ, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_int4_quantizes_matrices_and_keeps_norms_float() -> None:
    resolved = Recipe.for_format("int4").resolve(CONFIG)
    assert resolved[Q_PROJ] == resolved[DOWN] == Scheme(4, 32, symmetric=False)
    assert resolved["model.embed_tokens.weight"] == Scheme(8, 32)
    assert {name for name, scheme in resolved.items() if scheme is None} == {n for n in resolved if "norm" in n}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("int4", 64, True), Scheme(4, 64)),
        (("int4-fast",), Scheme(4, 256, symmetric=False)),
        (("int8",), Scheme(8, 16)),
        (("int8", 64, False), Scheme(8, 64, symmetric=False)),
        (("int8-dynamic",), Scheme(8, None, activations="int8_per_token")),
    ],
)
def test_formats_and_flags(arguments: tuple[object, ...], expected: Scheme) -> None:
    assert Recipe.for_format(*arguments).scheme_for(Q_PROJ, 1024) == expected  # type: ignore[arg-type]


def test_int4_fast_takes_the_largest_group_that_divides_each_width() -> None:
    config = Qwen3Config.from_dict(tiny_config(hidden_size=576, intermediate_size=1536))
    recipe = Recipe.for_format("int4-fast")
    resolved = recipe.resolve(config)
    assert resolved[Q_PROJ] == resolved["model.embed_tokens.weight"] == Scheme(4, 64, symmetric=False)
    assert resolved[DOWN] == Scheme(4, 256, symmetric=False)
    narrower = Recipe.for_format("int4-fast", 128, True).resolve(config)
    assert (narrower[Q_PROJ], narrower[DOWN]) == (Scheme(4, 64), Scheme(4, 128))
    with pytest.raises(UsageError, match=r"q_proj.weight: group size 256 does not divide the width 100"):
        recipe.scheme_for(Q_PROJ, 100)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [  # of official models; layers counted by hand: bytes that an 8-bit head takes more over those of a down projection
        ({"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "tie_word_embeddings": True}, 28),
        ({"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "tie_word_embeddings": True}, 16),
        ({"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "tie_word_embeddings": False}, 12),
    ],
)
def test_int4_mixed_spends_what_the_head_saves_on_the_outermost_down_projections(
    shape: dict[str, Any], expected: int
) -> None:
    config = Qwen3Config.from_dict(tiny_config(vocab_size=151936, **shape))
    mixed, plain = Recipe.for_format("int4-mixed").fitted_to(config)[0].resolve(config), Recipe.for_format("int4")
    down = [mixed[f"model.layers.{layer}.mlp.down_proj.weight"] for layer in range(config.num_hidden_layers)]
    chosen = [layer for layer, scheme in enumerate(down) if scheme == Scheme(8, 128)]
    assert len(chosen) == expected
    assert chosen == [*range((expected + 1) // 2), *range(len(down) - expected // 2, len(down))]
    assert mixed[Q_PROJ] == mixed[EMBEDDING] == Scheme(4, 32, symmetric=False)
    assert {scheme for layer, scheme in enumerate(down) if layer not in chosen} <= {Scheme(4, 32, symmetric=False)}

    def read(schemes: dict[str, Scheme | None]) -> int:
        """Bytes of weights that a token reads."""
        shapes = tensor_shapes(config)
        if not config.tie_word_embeddings:
            del shapes[EMBEDDING]
        return sum(found.stored_bytes(*shapes[name]) for name in shapes if (found := schemes[name]))

    room = read(plain.resolve(config)) - read(mixed)
    one_more = Scheme(8, 128).stored_bytes(*tensor_shapes(config)[DOWN])
    one_more -= Scheme(4, 32, symmetric=False).stored_bytes(*tensor_shapes(config)[DOWN])
    assert room >= 0
    assert room < one_more or expected == config.num_hidden_layers


@pytest.mark.parametrize(("layers", "early"), [(1, 1), (4, 1), (5, 2), (48, 12)])
def test_int4_mixed_is_int4_with_early_attention_in_8_bits_where_there_are_experts(layers: int, early: int) -> None:
    dense = [0] if layers > 1 else []  # without a layer of experts it would be a dense model
    config = Qwen3Config.from_dict(tiny_config(**MOE | {"mlp_only_layers": dense}, num_hidden_layers=layers))

    def schemes(name: str, *changes: Any) -> dict[str, Scheme | None]:
        return Recipe.for_format(name, *changes).for_model(config).fitted_to(config)[0].resolve(config)

    for changes in ((), (16, True)):
        mixed, plain = schemes("int4-mixed", *changes), schemes("int4", *changes)
        attention = {
            f"model.layers.{layer}.self_attn.{part}_proj.weight": Scheme(
                8, 128 if part == "o" else 64
            )  # what divides K
            for layer in range(early)
            for part in "qkvo"
        }
        assert mixed == plain | attention


def test_rules_of_ones_own_come_before_those_that_int4_mixed_has_for_experts(tmp_path: Path) -> None:
    config = Qwen3Config.from_dict(tiny_config(**MOE))
    own = '[[rule]]\nmatch = "model.embed_tokens"\nbits = 4\ngroup_size = 16\n'
    own += '[[rule]]\nmatch = "*self_attn*"\nbits = 2\ngroup_size = 16\n'
    recipe = Recipe.load(write(tmp_path, f'format = "int4-mixed"\n{own}')).for_model(config)
    assert recipe.without_effect(config) == {}
    found = recipe.fitted_to(config)[0].resolve(config)
    assert (found[EMBEDDING], found[Q_PROJ]) == (Scheme(4, 16), Scheme(2, 16))


def test_int4_mixed_has_nothing_to_spend_where_a_recipe_keeps_the_head_in_8_bits(tmp_path: Path) -> None:
    head = '[[rule]]\nmatch = "model.embed_tokens"\nbits = 8\ngroup_size = 32\n'
    recipe = Recipe.load(write(tmp_path, f'format = "int4-mixed"\n{head}')).for_model(TIED).fitted_to(TIED)[0]
    assert recipe.resolve(TIED)[DOWN] == Scheme(4, 32, symmetric=False)
    assert recipe.without_effect(TIED) == {}


def test_int4_mixed_spends_nothing_on_layers_that_a_rule_of_ones_own_decides(tmp_path: Path) -> None:
    shape = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "tie_word_embeddings": True}
    config = Qwen3Config.from_dict(tiny_config(vocab_size=151936, **shape))
    own = '[[rule]]\nmatch = "model.layers.0.*"\nfloat = true\n[[rule]]\nmatch = "model.layers.35.*"\nfloat = true\n'
    recipe = Recipe.load(write(tmp_path, f'format = "int4-mixed"\n{own}')).for_model(config).fitted_to(config)[0]
    down = [recipe.resolve(config)[f"model.layers.{layer}.mlp.down_proj.weight"] for layer in range(36)]
    assert [layer for layer, scheme in enumerate(down) if scheme == Scheme(8, 128)] == [*range(1, 9), *range(27, 35)]
    assert (down[0], down[35]) == (None, None)


def test_a_rule_of_ones_own_that_spends_the_head_is_refused_where_it_matches_nothing(tmp_path: Path) -> None:
    rule = '[[rule]]\nmatch = "model.layers.*.mlp.dwn_proj"\nbits = 8\ngroup_size = 128\nspends_head = true\n'
    recipe = Recipe.load(write(tmp_path, f'format = "int4"\n{rule}'))
    with pytest.raises(InputError, match="matches no tensor"):
        recipe.for_model(CONFIG)


def test_rules_come_before_the_format_and_the_first_match_decides(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        format = "int4"
        group_size = 64
        [[rule]]
        match = "model.layers.0.*"
        float = true
        [[rule]]
        match = "*.down_proj"
        bits = 8
        group_size = 16
        """,
    )
    recipe = Recipe.load(path)
    assert recipe.scheme_for(Q_PROJ, 1024) is None
    assert recipe.scheme_for("model.layers.0.mlp.down_proj.weight", 1024) is None
    assert recipe.scheme_for(DOWN, 1024) == Scheme(8, 16)
    assert recipe.scheme_for("model.layers.1.mlp.up_proj.weight", 1024) == Scheme(4, 64, symmetric=False)


def test_norms_and_routers_stay_float_whatever_the_rules_say(tmp_path: Path) -> None:
    recipe = Recipe.load(write(tmp_path, '[[rule]]\nmatch = "*"\nbits = 4\ngroup_size = 32\n'))
    assert recipe.scheme_for("model.layers.0.input_layernorm.weight", 1024) is None
    assert recipe.scheme_for("model.layers.0.self_attn.q_norm.weight", 1024) is None
    assert recipe.scheme_for("model.layers.0.mlp.gate.weight", 1024) is None
    assert recipe.scheme_for("model.layers.0.mlp.gate_proj.weight", 1024) == Scheme(4, 32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format = 'int5'", "format 'int5': expected one of int4-mixed, int4, int4-fast, int8, int8-dynamic"),
        ("typo = 1", r"unknown fields \['typo'\]"),
        ("[[rule]]\nbits = 4", "rule 1: expected a table with match"),
        ("[[rule]]\nmatch = '*'\ngroup_size = 32", "bits is missing"),
        ("[[rule]]\nmatch = '*'\nbits = 5\ngroup_size = 32", "bits = 5"),
        ("[[rule]]\nmatch = '*'\nbits = 4.0\ngroup_size = 32", "bits = 4.0"),
        ("[[rule]]\nmatch = '*'\nbits = 4\ngroup_size = 32\nsymmetric = 'no'", "symmetric = 'no'"),
        ("[[rule]]\nmatch = '*'\nbits = 4\ngroups = 32", r"unknown fields \['groups'\]"),
        ("[[rule]", "not valid TOML"),
        ("rule = 3", "rule = 3: expected"),
        ("format = 'int4'\ngroup_size = 'big'", "group_size = 'big'"),
        ("method = 7", "method = 7"),
        ("[[rule]]\nmatch = '*'\nbits = 4\ngroup_size = 32\nfit = 1", "fit = 1"),
        ("[[rule]]\nmatch = '*'\nbits = 4\ngroup_size = 32\nscales = 'bfloat16'", "scales = 'bfloat16'"),
        (
            "[[rule]]\nmatch = '*'\nbits = 4\ngroup_size = 32\nscales = [16]",
            r"scales = \[16\]: expected 'int8', 'float16' or",
        ),
    ],
)
def test_a_broken_recipe_names_file_and_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"recipe.toml: .*{message}"):
        Recipe.load(write(tmp_path, text))


def test_a_missing_recipe_is_bad_input(tmp_path: Path) -> None:
    for path in (tmp_path, Path("a\0.toml"), tmp_path / "none.toml"):
        with pytest.raises(InputError, match=r"cannot be read \(.*\); expected a TOML recipe") as caught:
            Recipe.load(path)
        assert "\0" not in str(caught.value)


def test_a_format_that_is_no_str_is_a_type_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"format: expected a str, one of int4-mixed, .*, not int"):
        Recipe.for_format(4)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"recipe.toml: format = \[4\]: expected one of int4"):
        Recipe.load(write(tmp_path, "format = [4]"))


def test_group_size_that_does_not_divide_names_tensor_and_valid_sizes() -> None:
    config = Qwen3Config.from_dict(tiny_config(hidden_size=96))
    with pytest.raises(UsageError, match=r"q_proj.weight: group size 64 does not divide the width 96.*16, 32$"):
        Recipe.for_format("int4", 64).resolve(config)


def test_digest_follows_content() -> None:
    assert Recipe.for_format("int4").digest == Recipe.for_format("int4", 32, False).digest
    assert Recipe.for_format("int4").digest != Recipe.for_format("int4", 64).digest


def test_digests_are_those_of_versions_whose_schemes_had_no_field_for_scales() -> None:
    assert [Recipe.for_format(name).digest[:16] for name in FORMATS if name != "int4-mixed"] == [
        "bf417822ecbcdcd6", "fe2d293eadfa3699", "91db923f1fc76697", "e3fa83dfb63bf809",
    ]  # fmt: skip


def test_json_of_such_versions_reads_as_the_default() -> None:
    scheme = {"bits": 4, "group_size": 32, "symmetric": True, "activations": "float"}
    old = {"method": "rtn", "kv_cache": "float32", "rules": [{"match": "*", "scheme": scheme}]}
    recipe = Recipe.from_json(old)
    assert recipe.rules[0].scheme == Scheme(4, 32, scales="int8")
    assert recipe.to_json() == old


def test_float16_scales_are_a_field_of_a_rule(tmp_path: Path) -> None:
    path = write(tmp_path, "[[rule]]\nmatch = '*'\nbits = 4\ngroup_size = 32\nscales = 'float16'\n")
    recipe = Recipe.load(path)
    assert recipe.scheme_for(Q_PROJ, 1024) == Scheme(4, 32, scales="float16")
    assert Recipe.load(write(tmp_path, recipe.to_toml())) == recipe
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_json_reads_back_as_the_same_recipe() -> None:
    recipe = Recipe((Rule("lm_head", None), *Recipe.for_format("int4").rules), "gptq", "int8")
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize("format_name", FORMATS)
def test_what_is_written_as_toml_reads_back_as_the_same_recipe(format_name: str, tmp_path: Path) -> None:
    recipe = replace(Recipe.for_format(format_name), method="rtn")
    recipe = replace(recipe, rules=(Rule("model.layers.0.self_attn.[qk]_proj", None), *recipe.rules))
    file = tmp_path / "recipe.toml"
    file.write_text(recipe.to_toml())
    assert Recipe.load(file) == recipe


def test_l18_int8_dynamic_is_fitted_to_any_width_and_other_recipes_are_not() -> None:
    def fitted(name: str, **overrides: Any) -> tuple[Scheme | None, tuple[str, ...]]:
        config = Qwen3Config.from_dict(tiny_config(**overrides))
        recipe, left_float = Recipe.for_format(name).fitted_to(config)
        assert (recipe == Recipe.for_format(name)) == (name != "int8-dynamic" or config.hidden_size % 32 == 0)
        return recipe.scheme_for("model.embed_tokens.weight", config.hidden_size), left_float

    assert fitted("int8-dynamic") == (Scheme(8, 32), ())
    assert fitted("int8-dynamic", hidden_size=48) == (Scheme(8, 16), ())
    assert fitted("int8-dynamic", hidden_size=72) == (None, ("model.embed_tokens.weight",))
    assert fitted("int8-dynamic", hidden_size=72, tie_word_embeddings=False)[1][1:] == ("lm_head.weight",)
    with pytest.raises(UsageError, match="group size 32 does not divide the width 72"):
        fitted("int4", hidden_size=72)


TIED, UNTIED = (Qwen3Config.from_dict(tiny_config(tie_word_embeddings=tied)) for tied in (True, False))
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize(
    ("match", "said"),
    [
        ("lm_haed", r"did you mean lm_head\?"),
        ("layers.0.mlp.down_proj", r"did you mean model\.layers\.0\.mlp\.down_proj\?"),
        ("down_proj", "did you mean model.layers.0.mlp.down_proj, model.layers.1.mlp.down_proj"),
        ("re:.*down_proj", "regular expressions are not read"),
        ("nothing like it", "names are like model.layers.0"),
    ],
)
@pytest.mark.parametrize("config", [TIED, UNTIED])
def test_u10_q3_a_rule_that_matches_nothing_is_refused_with_the_nearest_names(
    config: Qwen3Config, match: str, said: str
) -> None:
    recipe = Recipe((*Recipe.for_format("int4").rules, Rule(match, None)))
    with pytest.raises(InputError, match=rf"rule 4, match = '.*': .*{said}"):
        recipe.for_model(config)


def test_q3_a_rule_may_end_in_weight() -> None:
    recipe = Recipe((Rule(DOWN, Scheme(8, 16)), *Recipe.for_format("int4").rules)).for_model(CONFIG)
    assert recipe.resolve(CONFIG)[DOWN] == Scheme(8, 16)


@pytest.mark.parametrize("match", ["lm_head", "lm_*", "lm_head.weight"])
def test_q3_the_tied_table_is_one_tensor_with_both_names(match: str) -> None:
    """The example of docs/usage.md: a float head."""
    recipe = Recipe((Rule(match, None), *Recipe.for_format("int4").rules))
    assert recipe.for_model(TIED).resolve(TIED)[EMBEDDING] is None
    untied = recipe.for_model(UNTIED).resolve(UNTIED)
    assert (untied[EMBEDDING], untied[HEAD]) == (Scheme(8, 32), None)
    later = Recipe((Rule("model.embed_tokens", Scheme(4, 32)), Rule(match, None))).for_model(TIED)
    assert later.resolve(TIED)[EMBEDDING] == Scheme(4, 32)  # the first decides


@pytest.mark.parametrize("config", [TIED, UNTIED])
@pytest.mark.parametrize("name", FORMATS)
def test_named_formats_fit_every_model_as_they_are(config: Qwen3Config, name: str) -> None:
    assert Recipe.for_format(name).for_model(config) == Recipe.for_format(name)


def test_rules_that_earlier_ones_leave_nothing_for_are_known(tmp_path: Path) -> None:
    def found(*matches: str, config: Qwen3Config = CONFIG, format_name: str = "int4") -> dict[int, str]:
        rules = "".join(f'[[rule]]\nmatch = "{match}"\nfloat = true\n' for match in matches)
        return Recipe.load(write(tmp_path, f'format = "{format_name}"\n{rules}')).without_effect(config)

    assert found() == found("model.layers.*", "lm_head") == {}  # what a format fills in is there to be overridden
    assert found("model.layers.*_proj", "*.down_proj", "lm_head") == {2: "*.down_proj"}
    assert found("*.q_proj", "*.k_proj", "*.[qk]_proj") == {3: "*.[qk]_proj"}
    assert found("*.q_proj", "*.[qk]_proj") == {}
    assert found("model.layers.*", "*.0.*norm") == {}  # which stays float in any case
    untied = Qwen3Config.from_dict(tiny_config(tie_word_embeddings=False))
    for tables in (("model.embed_tokens", "lm_head"), ("lm_head", "model.embed_tokens")):
        assert found(*tables) == {2: tables[1]}  # one tensor with two names
        assert found(*tables, config=untied) == {}
    assert Recipe((Rule("*", None), Rule("lm_head", None))).without_effect(untied) == {2: "lm_head"}


def test_a_scheme_for_norms_is_refused() -> None:
    with pytest.raises(InputError, match=r"'\*norm': norms and routers stay float"):
        Recipe((Rule("*norm", Scheme(8, 32)),)).for_model(CONFIG)
    assert Recipe((Rule("*norm", None),)).for_model(CONFIG).resolve(CONFIG)
