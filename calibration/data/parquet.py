"""Rows of a Parquet file, a few at a time: a small file may unpack to any size."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from q3edge.calibration.data.unpacking import ExpansionError

LARGEST = 2**30  # bytes of text, with 128 for each row
_TOO_MUCH = "more than 1 GiB"
_ROW = 128
_BATCH = 2**28  # bytes; a dictionary's entry may stand in every row


def parquet_rows(
    content: bytes, parquet: ModuleType, wanted: Callable[[Sequence[str]], Sequence[str]]
) -> Iterator[dict[str, Any]]:
    """Yield the rows as dicts of the columns that `wanted` chooses from the names.

    ExpansionError: more than 1 GiB, as it is read, or by its number of rows. Any other error of the library.
    """
    table = parquet.ParquetFile(io.BytesIO(content))
    columns = wanted(table.schema_arrow.names)
    left = LARGEST - _ROW * table.metadata.num_rows
    if left < 0:
        raise ExpansionError(_TOO_MUCH)
    for index in range(table.num_row_groups):
        # Of the row group as a whole: in a damaged file the figures of a column end the process inside arrow.
        rows = min(64, max(1, _BATCH // max(1, table.metadata.row_group(index).total_byte_size)))
        for batch in table.iter_batches(rows, row_groups=[index], columns=columns):
            found = batch.to_pylist()
            left -= sum(map(_length, found))
            if left < 0:
                raise ExpansionError(_TOO_MUCH)
            yield from found


def _length(value: object) -> int:
    """Number of characters of all texts in a value."""
    if isinstance(value, Mapping):
        return sum(map(_length, value.values()))
    return sum(map(_length, value)) if isinstance(value, list) else len(value) if isinstance(value, str) else 0
