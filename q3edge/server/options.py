"""`ServerOptions`: how a server was started."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from q3edge.defaults import MAX_BATCH, MAX_QUEUE, PORT
from q3edge.errors import InputError, UsageError

_MAX_KEY_FILE = 64 * 2**10  # bytes
_SHORTEST_KEY = 16  # characters


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Options of a server; `folders` by the names of their models. Sizes in bytes, lengths in tokens.

    keys: those that a client may give, none: it need not. hosts: names beside `localhost` and `host` by which clients
    reach the server; origins: of web pages of others that may use it. max_new_tokens: of answers to requests that name
    no length (None: the model's own). memory_limit: for all models that are open at once. prefix_dir: where clients may
    save prefixes (None: nowhere). offload, kernels: as `Model.open` takes them.
    """

    folders: dict[str, Path]
    host: str = "127.0.0.1"
    port: int = PORT
    keys: tuple[str, ...] = field(default=(), repr=False)
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_batch: int = MAX_BATCH
    max_queue: int = MAX_QUEUE
    max_new_tokens: int | None = None
    context: int | None = None
    kv_memory: int | None = None
    memory_limit: int | None = None
    threads: int | None = None
    log_prompts: bool = False
    prefix_dir: Path | None = None
    offload: bool | None = None
    kernels: str | None = None

    def __post_init__(self) -> None:
        """Raise UsageError if clients of other machines would need no key."""
        if not self.keys and not is_loopback(self.host):
            raise UsageError(
                f"host = {self.host}: other machines can reach the server there; give a file with a key that its "
                "clients have to send (--api-key-file)"
            )


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach a server there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_keys(path: Path) -> tuple[str, ...]:
    """Read keys, one a line; empty lines and those that begin with # do not count. InputError: none, or unfit."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY_FILE + 1)
        lines = [line.strip() for line in data.decode("ascii").splitlines()]
    except OSError as error:
        raise InputError(f"{path}: the file of keys cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: a key may hold letters, digits and signs of ASCII alone") from None
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys or len(data) > _MAX_KEY_FILE:
        raise InputError(f"{path}: expected one key a line, at least one and at most {_MAX_KEY_FILE >> 10} KiB")
    if short := [number for number, key in enumerate(keys, 1) if len(key) < _SHORTEST_KEY or " " in key]:
        raise InputError(
            f"{path}: key {short[0]} has fewer than {_SHORTEST_KEY} characters, or a space; a good one comes from "
            "`openssl rand -hex 32`"
        )
    return keys


def made_folder(path: Path) -> Path:
    """The folder `path`, made for the owner alone if there is none. InputError: it is a file, or cannot be made."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be used as a folder of prefixes ({error.strerror})") from None
    return path


def named(folders: tuple[Path, ...], names: tuple[str, ...]) -> dict[str, Path]:
    """Folders by the names of their models: those given, or those of the folders. UsageError: two have the same."""
    if names and len(names) != len(folders):
        raise UsageError(f"{len(folders)} folders and {len(names)} names: give one name for each folder, or none")
    chosen = names or tuple(folder.resolve().name for folder in folders)
    if double := [name for name in chosen if chosen.count(name) > 1]:
        raise UsageError(f"two models are named {double[0]!r}; give each its own name (--name)")
    return dict(zip(chosen, folders))
