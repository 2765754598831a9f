"""`Adapter`: low-rank changes of a model's matrices (LoRA), merged into them row by row as they are read.

Layout: adapter_config.json and adapter_model.safetensors as peft saves them. W + s B A with s = alpha / rank (LoRA,
arXiv 2106.09685), or alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732); DoRA (arXiv 2402.09353) gives each row of the sum
a norm of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.fields import shown
from q3edge.architecture.tensors import EMBEDDING, LM_HEAD, tensor_shapes
from q3edge.artifact import Notice, file_record, hub_id
from q3edge.artifact.side_files import CHAT_TEMPLATE_FILE, TOKENIZER_FILE
from q3edge.checkpoint.matrix import StoredMatrix
from q3edge.checkpoint.safetensors.file import FLOAT_DTYPES, SafetensorsFile
from q3edge.checkpoint.tensor_files import Expected
from q3edge.checkpoint.tensor_names import canonical_name
from q3edge.errors import InputError
from q3edge.storage.digests import json_digest
from q3edge.storage.json_files import read_json_object

ADAPTER_CONFIG_FILE: Final = "adapter_config.json"
ADAPTER_FILE: Final = "adapter_model.safetensors"
_ANY_WEIGHTS: Final = ("adapter_model*.safetensors", "adapter_model*.bin")
_PARTS: Final[Mapping[str, str]] = {  # ends of stored names -> what they are
    ".lora_A.weight": "a", ".lora_B.weight": "b", ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude", ".lora_embedding_A": "a", ".lora_embedding_B": "b",
}  # fmt: skip
_BASE_LAYER: Final = ".base_layer.weight"  # peft saves the matrix below too where its vocabulary changed
_VARIANTS: Final = (
    "use_qalora", "use_bdlora", "kasa_config", "velora_config", "monteclora_config", "arrow_config", "megatron_config",
    "alora_invocation_tokens", "target_parameters", "trainable_token_indices", "layer_replication",
)  # fmt: skip
_CHANGES_THE_BASE: Final = (
    "pissa",
    "olora",
    "corda",
    "loftq",
    "lora_ga",
)  # by how it begins
_HUB_ID: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_PLAIN: Final = re.compile(r"\^?[\w.]+")


class Adapter:
    """A LoRA adapter, checked against the model that it is for; reads are of the rows that are asked for.

    names: the model's tensors that it changes.
    """

    def __init__(self, folder: Path, config: Qwen3Config) -> None:
        """Read the settings and the header; InputError: another kind of adapter, or one of another model."""
        self.folder = folder
        self._settings = _settings(folder)
        if not (folder / ADAPTER_FILE).is_file():
            raise InputError(f"{folder}: has no {ADAPTER_FILE}; expected an adapter as peft saves it")
        self._file = SafetensorsFile(folder / ADAPTER_FILE)
        try:
            self._shapes = {**tensor_shapes(config), LM_HEAD: (config.vocab_size, config.hidden_size)}
            self._parts, self._whole = self._find()
            self._check(config)
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> frozenset[str]:
        """Names of the model's tensors that it changes."""
        return frozenset((*self._parts, *self._whole))

    def merged(self, name: str, values: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
        """Merge into rows start:stop of tensor `name`, float32 [n, K]; a new array where it is one of `names`."""
        if stored := self._whole.get(name):
            values = self._file.read_float(stored, rows)
        if name not in self._parts:
            return values
        parts = self._parts[name]
        a = self._file.read_float(parts["a"])
        if name == EMBEDDING:  # its output is the hidden state: stored the other way around
            change = a[:, rows].T @ self._file.read_float(parts["b"]).T
        else:
            change = self._file.read_float(parts["b"], rows) @ a
        with np.errstate(all="ignore"):  # what is not finite is refused by name
            changed: NDArray[np.float32] = values + np.float32(self._scaling(name, len(a))) * change
        if "magnitude" in parts:
            magnitude = self._file.read_float(parts["magnitude"], rows)
            norms = np.linalg.norm(changed.astype(np.float64), axis=1)  # float32 overflows: a row of 0 in silence
            with np.errstate(all="ignore"):  # what is not finite is refused by name
                changed *= (magnitude / norms).astype(np.float32)[:, None]
        return changed

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor of the model."""
        return self._shapes[name]

    def digest(self) -> str:
        """Digest of settings and weights, hex sha256."""
        files = (ADAPTER_CONFIG_FILE, ADAPTER_FILE)
        return json_digest({name: file_record(self.folder / name).sha256 for name in files})

    def close(self) -> None:
        """Close the file; later reads fail."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def _find(self) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
        """Find the parts of each changed matrix, name -> part -> stored name, and the tensors that are replaced."""
        parts: dict[str, dict[str, str]] = {}
        whole: dict[str, str] = {}
        for stored in self._file.entries:
            end = next((end for end in _PARTS if stored.endswith(end)), None)
            module = stored.removesuffix(end or _BASE_LAYER).removesuffix(".weight")
            name = canonical_name(f"{module}.weight")
            if name not in self._shapes:
                raise InputError(
                    f"{self._file.path} ({stored}): changes {name}, which the model does not have; expected LoRA of "
                    "a Qwen3's matrices, embedding or head, and the right base model"
                )
            found = parts.setdefault(name, {}) if end else whole
            if (key := _PARTS[end] if end else name) in found:
                raise InputError(f"{self._file.path} ({stored}): also there as {found[key]}; expected it once")
            found[key] = stored
        if not parts and not whole:
            raise InputError(f"{self._file.path}: holds no tensor; nothing to merge")
        return parts, whole

    def _check(self, config: Qwen3Config) -> None:
        for name, parts in self._parts.items():
            shape = self._shapes[name]
            if missing := {"a", "b"} - {*parts}:
                part = f"lora_{missing.pop().upper()}"
                raise InputError(f"{self._file.path} ({name}): {part} is missing; the adapter is incomplete")
            if len(shape) != 2:
                raise InputError(f"{self._file.path} ({name}): is no matrix; refused")
            if name == EMBEDDING and "magnitude" in parts:
                raise InputError(f"{self._file.path} ({name}): DoRA of an embedding is not supported; merge it in peft")
            rank = self._file.entries[parts["a"]].shape[:1]
            self._expect(parts["a"], (*rank, shape[1]) if name != EMBEDDING else (*rank, shape[0]))
            self._expect(parts["b"], (shape[0], *rank) if name != EMBEDDING else (shape[1], *rank))
            if "magnitude" in parts:
                self._expect(parts["magnitude"], shape[:1])
            self._scaling(name, rank[0] if rank else 0)
        for name, stored in self._whole.items():
            self._expect(stored, self._shapes[name])
        if config.tie_word_embeddings and EMBEDDING in self.names and LM_HEAD not in self.names:
            raise InputError(
                f"{self._file.path} ({EMBEDDING}): is changed, and the model's head is tied to it: whether the head "
                "changes too is not said; merge the adapter in peft, and save the model with the head that is meant"
            )

    def _expect(self, stored: str, shape: tuple[int, ...]) -> None:
        entry = self._file.entries[stored]
        if entry.shape != shape or 0 in shape:
            raise InputError(
                f"{self._file.path} ({stored}): shape {list(entry.shape)}, expected {list(shape)}; the adapter is of "
                "another base model"
            )
        if entry.dtype not in FLOAT_DTYPES:
            raise InputError(f"{self._file.path} ({stored}): dtype {entry.dtype}, expected {' or '.join(FLOAT_DTYPES)}")

    def _scaling(self, name: str, rank: int) -> float:
        module = name.removesuffix(".weight")
        alpha = _matching(self._settings["alpha_pattern"], module, self._settings["lora_alpha"])
        stated = _matching(self._settings["rank_pattern"], module, self._settings["r"])
        if stated != rank:
            raise InputError(
                f"{self.folder / ADAPTER_CONFIG_FILE}: r = {shown(stated)} for {module}, but {ADAPTER_FILE} has rank "
                f"{rank}"
            )
        return alpha / math.sqrt(rank) if self._settings["use_rslora"] else alpha / rank


def adapter_files(folder: Path) -> list[str]:
    """Names of the files of an adapter in a folder, none where there is no adapter."""
    return sorted(file.name for name in (ADAPTER_CONFIG_FILE, *_ANY_WEIGHTS) for file in folder.glob(name))


def other_text_files(folder: Path, base: Path) -> tuple[Notice, ...]:
    """Notice of files of an adapter's own that decide how text becomes tokens, where they differ from the model's."""
    names = (TOKENIZER_FILE, CHAT_TEMPLATE_FILE)
    own = [name for name in names if (folder / name).is_file() and not _alike(folder / name, base / name)]
    if not own:
        return ()
    detail = f"files of the adapter differ from the model's, which were taken: {', '.join(own)} in {folder}"
    return (Notice("adapter-files-ignored", len(own), detail),)


def _alike(one: Path, other: Path) -> bool:
    return other.is_file() and file_record(one).sha256 == file_record(other).sha256


def base_model(folder: Path) -> str:
    """Folder or hub id of the model that an adapter is for. InputError: it does not say."""
    path = folder / ADAPTER_CONFIG_FILE
    found = read_json_object(path).get("base_model_name_or_path")
    if not isinstance(found, str) or not found:
        raise InputError(f"{path}: base_model_name_or_path = {shown(found)}: names no model; give MODEL+{folder}")
    return found


def other_base(folder: Path, base: Path) -> tuple[Notice, ...]:
    """Notice of a hub id that an adapter names as its base model, where it is merged into a model of another name.

    Paths name places on the machine of the training, and are not compared; nor is what stands before a name.
    """
    found = read_json_object(folder / ADAPTER_CONFIG_FILE).get("base_model_name_or_path")
    if not isinstance(found, str) or not _HUB_ID.fullmatch(found):
        return ()
    into = hub_id(base) or base.absolute().name
    if found.rpartition("/")[2].lower() == into.rpartition("/")[2].lower():
        return ()
    detail = (
        f"the adapter in {folder} names {found} as its base model and was merged into {into}, whose shapes fit; if "
        "that is another model, what comes of it is of neither"
    )
    return (Notice("adapter-of-another-base", 1, detail),)


class MergedTensor(StoredMatrix):
    """Tensor of a model with an adapter merged into it; base: the model's own, or what reads its rows as floats."""

    def __init__(
        self, adapter: Adapter, name: str, base: StoredMatrix | Callable[[slice], NDArray[np.float32]]
    ) -> None:
        self._adapter, self._name = adapter, name
        self._read, self.holds_floats = (
            (base.values, base.holds_floats) if isinstance(base, StoredMatrix) else (base, True)
        )
        self.shape = adapter.shape(name)
        self.label = "LoRA merged"

    @property
    def expected(self) -> Mapping[str, Expected]:
        """Expected parts: none, as the adapter checks its own."""
        return {}

    @property
    def why_not(self) -> str:
        """Reason for which no scheme holds the codes."""
        return "an adapter is merged into it"

    def values(self, rows: slice) -> NDArray[np.float32]:
        """Read rows start:stop as float32."""
        return self._adapter.merged(self._name, self._read(rows), rows)


def _settings(folder: Path) -> Mapping[str, Any]:
    """Read adapter_config.json with peft's defaults; InputError: a setting that merging row by row does not know."""
    path = folder / ADAPTER_CONFIG_FILE
    raw = read_json_object(path)
    found = {
        "alpha_pattern": raw.get("alpha_pattern") or {}, "rank_pattern": raw.get("rank_pattern") or {},
        "r": raw.get("r", 8), "lora_alpha": raw.get("lora_alpha", 8), "use_rslora": raw.get("use_rslora") or False,
    }  # fmt: skip
    if raw.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type = {shown(raw.get('peft_type'))}: expected LORA; merge it in peft")
    start = raw.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_CHANGES_THE_BASE):
        raise InputError(
            f"{path}: init_lora_weights = {start!r}: belongs to a base model that training changed first; convert the "
            "adapter in peft (path_initial_model_for_weight_conversion), or merge it there"
        )
    if raw.get("bias", "none") != "none" or raw.get("lora_bias"):
        raise InputError(f"{path}: trains biases, which a Qwen3 does not have; refused")
    for key in _VARIANTS:
        if raw.get(key):
            raise InputError(f"{path}: {key} = {shown(raw[key])}: is not supported; merge it in peft")
    for key in ("r", "lora_alpha"):
        if type(found[key]) not in (int, float) or not 0 < found[key] < 1e6:
            raise InputError(f"{path}: {key} = {shown(found[key])}: expected a positive number")
    if not isinstance(found["use_rslora"], bool):
        raise InputError(f"{path}: use_rslora = {shown(found['use_rslora'])}: expected true or false")
    for key in ("alpha_pattern", "rank_pattern"):
        patterns = found[key]
        if not isinstance(patterns, Mapping) or not all(
            _PLAIN.fullmatch(name) and type(value) in (int, float) and 0 < value < 1e6
            for name, value in patterns.items()
        ):
            raise InputError(
                f"{path}: {key}: expected names of modules with positive numbers; regular expressions of an unknown "
                "file are not run, merge it in peft"
            )
    return found


def _matching(patterns: Mapping[str, float], module: str, default: float) -> float:
    """Value of the first name that is the module's, or its end behind a dot; one with ^ is the whole name."""
    for pattern, value in patterns.items():
        name = pattern.removeprefix("^")
        if module in (name, f"model.{name}") or (not pattern.startswith("^") and module.endswith(f".{name}")):
            return value
    return default
