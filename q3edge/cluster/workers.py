"""`working_with`: work runs on the workers of a Dask cluster. The only module that imports the scheduler's library.

Pieces are tasks of pure functions: where a worker is lost, the scheduler gives its tasks to another, with whatever they
rest on. What comes back is taken in the order of the pieces, so any number of workers gives the same bytes.
"""

from __future__ import annotations

import gc
import logging
import pickle
import re
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from numpy.typing import NDArray

from q3edge import progress
from q3edge.cluster.piece import Done, Piece, check_kind, own_kind, run_piece
from q3edge.cluster.place import Item, Result, Rows, RowValues, working_at
from q3edge.cluster.travel import Large, Packed, as_array, pack, unpack
from q3edge.errors import GOES_ON, ResourceError, UsageError

if TYPE_CHECKING:
    from distributed import Client, Future

_ADDRESS = re.compile(r"((tcp|tls)://)?([\w.-]+|\[[0-9a-fA-F:.]+\]):[0-9]+")
_CONNECT_SECONDS = 10
_WORKER_SECONDS = 60  # that a scheduler without workers is waited for
_CHUNKS = 4  # of items for each worker: so many wait at most, and the slowest is not waited for long
_LINE = "start one with `dask scheduler`, and `dask worker ADDRESS` on each machine"
_NOTHING_TO_DO = (
    "note: --scheduler: there was nothing for the workers; they calibrate and build a sweep's formats, and all else "
    "runs here"
)
Found = TypeVar("Found")


@contextmanager
def working_with(scheduler: str | None) -> Iterator[None]:
    """Have the work of this thread run on the workers of the scheduler at an address such as tcp://host:8786.

    None: here. UsageError: it is no address. ResourceError: nothing answers there, it has no workers, or one of them
    is of another kind.
    """
    if scheduler is None:
        yield
        return
    import dask

    client = _connect(scheduler)
    try:
        workers = Workers(client)
        workers.check()
        # Values of rows are parts of tasks, of any size.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 PiB"}), working_at(workers):
            yield
        if not workers.used:
            progress.note(_NOTHING_TO_DO)
    finally:
        client.close()


def _connect(scheduler: str) -> Client:
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it reports comes as an error, in one line
    if not _ADDRESS.fullmatch(scheduler):
        raise UsageError(f"--scheduler {scheduler}: expected an address such as tcp://host:8786")
    try:
        return Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
    except OSError:
        error = ResourceError(f"--scheduler {scheduler}: no scheduler answers there; {_LINE}")
    gc.collect()  # the client that failed: deleted while another one starts, it would wait for that one's lock
    raise error


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """Values of a block of rows at a worker. needs: what they are computed again from if that worker is lost."""

    values: Future
    needs: tuple[Future, ...] = ()


@dataclass(slots=True, eq=False)
class _Sent:
    """Large arrays that all workers have, for as long as the array lives here."""

    futures: dict[int, tuple[weakref.ref[Any], int, Future]] = field(default_factory=dict)

    def find(self, value: Large) -> Future | None:
        """Find the future of an array that was sent and has not changed since."""
        found = self.futures.get(id(value))
        return found[2] if found and found[0]() is value and found[1] == _version(value) else None

    def keep(self, value: Large, future: Future) -> None:
        """Remember the future of an array."""
        key = id(value)
        reference = weakref.ref(value, lambda gone: self._drop(key, gone))
        self.futures[key] = (reference, _version(value), future)

    def _drop(self, key: int, gone: weakref.ref[Any]) -> None:
        if key in self.futures and self.futures[key][0] is gone:
            del self.futures[key]


class Workers:
    """Place of work: the workers of one scheduler, each of which does one piece at a time on all its threads."""

    elsewhere = True

    def __init__(self, client: Client) -> None:
        self._client, self._sent = client, _Sent()
        self.used = False  # whether any work was sent
        self._held: weakref.WeakKeyDictionary[RowValues, dict[int, _Held]] = weakref.WeakKeyDictionary()

    def check(self) -> None:
        """Wait for a worker, and check that all are of this process's kind. ResourceError otherwise."""
        self._wait_for_a_worker()
        try:
            kinds = self._client.run(own_kind)
        except ModuleNotFoundError as error:
            lacking = f"a worker lacks {error.name}; install 'q3edge[distributed]' there"
            raise ResourceError(f"{self._address}: {lacking}") from None
        for address, found in kinds.items():
            check_kind(address, found, own_kind())
        progress.note(f"{len(kinds)} workers at {self._address}")

    def run(self, work: Callable[[Iterable[Item]], Iterator[Result]], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results of `work` for all items; a worker does several of them side by side."""
        workers = len(self._addresses())
        size = -(-len(items) // (_CHUNKS * workers)) if isinstance(items, Sequence) else self._least_threads()
        left, sent, waiting = iter(items), None, deque[Any]()
        while chunk := [*islice(left, size)]:
            sent = sent or self._send(work)
            waiting.append(self._submit(sent, sent.piece(chunk)))
            if len(waiting) > _CHUNKS * workers:
                yield from _results(self._wait(waiting.popleft()))
        while waiting:
            yield from _results(self._wait(waiting.popleft()))

    def run_rows(self, work: Callable[[Sequence[Rows]], Iterator[Result]], blocks: Sequence[Rows]) -> Iterator[Result]:
        """Yield the results of `work` for all blocks; values that stay are left with the workers."""
        sent = self._send(work)
        addresses = self._addresses()
        waiting = []
        for number, block in enumerate(blocks):
            given = {place: held for place, rows in enumerate(sent.packed.rows) if (held := self._values(rows, block))}
            piece = replace(sent.piece([block]), first=block[0].start, stop=block[-1].stop, given=tuple(given))
            values = [held.values for held in given.values()]
            done = self._submit(sent, piece, values, addresses[number % len(addresses)])
            needs = (*sent.futures, *(future for held in given.values() for future in held.needs))
            waiting.append((block, done, needs))
        waiting.reverse()
        while waiting:
            block, done, needs = waiting.pop()
            results, numbers = self._wait(self._client.submit(_without_values, done, pure=False))
            for number in numbers:
                written = self._client.submit(_values_of, done, number, pure=False)
                self._take(sent.packed.rows[number], block, written, needs)
            del done
            yield from unpack(*results)

    def _take(self, rows: RowValues, block: Rows, values: Future, needs: tuple[Future, ...]) -> None:
        """Leave written values with the worker, or store them here."""
        if rows.stays:
            self._held.setdefault(rows, {})[block[0].start] = _Held(values, needs)
            return
        self._held.get(rows, {}).pop(block[0].start, None)
        found, first = torch.from_numpy(self._wait(values)), block[0].start
        for part in block:
            rows.write(part, found[part.start - first : part.stop - first])

    def _values(self, rows: RowValues, block: Rows) -> _Held | None:
        """Values of a block that exist: at a worker, or here, from where they are sent; None: there are none yet."""
        held = self._held.setdefault(rows, {})
        if block[0].start not in held and not rows.stays:
            try:
                found = rows.read(slice(block[0].start, block[-1].stop))
            except EOFError:
                return None
            # As part of a task, so that the scheduler can send it again.
            held[block[0].start] = _Held(self._client.submit(_itself, as_array(found), pure=False))
        return held.get(block[0].start)

    def _send(self, work: object) -> _Work:
        """Pack work, and send its large arrays to all workers."""
        self.used = True
        packed = pack(work)
        return _Work(uuid.uuid4().hex, packed, [self._scatter(value) for value in packed.large])

    def _scatter(self, value: Large) -> Future:
        future = self._sent.find(value)
        if future is None or future.status != "finished":
            try:
                future = self._client.scatter(as_array(value), broadcast=True, hash=False)
            except (OSError, TimeoutError):
                raise self._gone() from None
            self._sent.keep(value, future)
        return future

    def _submit(self, sent: _Work, piece: Piece, values: Sequence[Future] = (), worker: str | None = None) -> Future:
        where = None if worker is None else [worker]
        return self._client.submit(
            _run, piece, *values, *sent.futures, pure=False, workers=where, allow_other_workers=where is not None
        )

    def _wait(self, future: Future) -> Any:
        """Wait for a result. ResourceError: no worker is left, or too many were lost over it."""
        from distributed import KilledWorker

        waited = 0
        while True:
            try:
                return future.result(timeout=_CONNECT_SECONDS)
            except TimeoutError:
                waited = 0 if self._workers() else waited + _CONNECT_SECONDS
                if waited >= _WORKER_SECONDS:
                    raise self._gone() from None
            except KilledWorker as error:
                raise ResourceError(
                    f"{self._address}: several workers ended while they did the same piece of work, the last one "
                    f"{error.last_worker.address}: they may lack memory; {GOES_ON}"
                ) from None
            except CancelledError:
                raise self._gone() from None

    def _gone(self) -> ResourceError:
        return ResourceError(f"{self._address}: no worker is left that has what the work needs; {GOES_ON}")

    def _addresses(self) -> list[str]:
        """Find the workers that are there, at least one."""
        if not (found := self._workers()):
            self._wait_for_a_worker()
        return found or self._workers()

    def _wait_for_a_worker(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=_WORKER_SECONDS)
        except TimeoutError:
            raise ResourceError(f"{self._address}: no worker came within {_WORKER_SECONDS} s; {_LINE}") from None

    def _workers(self) -> list[str]:
        return sorted(self._found)

    def _least_threads(self) -> int:
        return min((found["nthreads"] for found in self._found.values()), default=1)

    @property
    def _found(self) -> dict[str, Any]:
        """Workers by their addresses, with what the scheduler knows of them."""
        found: dict[str, Any] = self._client.scheduler_info(-1)["workers"]
        return found

    @property
    def _address(self) -> str:
        return str(self._client.scheduler.address)


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """Work that is sent: its name, and the futures of its large arrays."""

    name: str
    packed: Packed
    futures: list[Future]

    def piece(self, items: Sequence[object]) -> Piece:
        """Make a piece of the work, for some items."""
        return Piece(self.name, self.packed.pickled, pickle.dumps([*items]), own_kind())


def _version(value: Large) -> int:
    """Number that changes with every change of a tensor; arrays do not tell."""
    return value._version if isinstance(value, torch.Tensor) else 0


def _results(done: Done) -> list[Any]:
    found: list[Any] = unpack(done.results, done.large)
    return found


# Run by workers.


def _run(piece: Piece, *arrays: NDArray[Any]) -> Done:
    from distributed import get_worker

    worker = get_worker()
    return run_piece(piece, worker.state.nthreads, worker.address, *arrays)


def _itself(value: Found) -> Found:
    return value


def _without_values(done: Done) -> tuple[tuple[bytes, list[NDArray[Any]]], list[int]]:
    return (done.results, done.large), [*done.written]


def _values_of(done: Done, number: int) -> NDArray[Any]:
    return done.written[number]
