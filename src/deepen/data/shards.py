"""Pictures in rows of Parquet files, read a row group at a time in an order that keeps it so.

A row group is the least that Parquet reads at once, commonly 100 to 1,000 pictures. An epoch goes
through the files in a shuffled order, through the row groups of each in a shuffled order, and mixes
the rows of as many row groups that follow one another as make `POOL_BYTES`. All that is a pure
function of the seed and the epoch, so a resume needs no more than the two and the batch. Each
worker holds `POOL_BYTES` and one row group at most, and reads each row group once an epoch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepen.data.decode import PictureError
from deepen.data.randomness import permutation
from deepen.errors import InputError

POOL_BYTES = 256 * 2**20
"""Of uncompressed row groups whose rows are mixed with each other."""


class Shards:
    """Parquet files with a column of pictures: binary, or a struct whose `bytes` are.

    Args:
        files: in the order of their row groups' numbers.
        names: what the files are called in keys and errors.
        column: that holds the pictures.
    """

    def __init__(self, files: Sequence[Path], names: Sequence[str], column: str) -> None:
        self.files = tuple(files)
        self.names = tuple(names)
        self.column = column
        digest, groups, counts, sizes = hashlib.sha256(column.encode()), [], [], []
        for shard, file in enumerate(self.files):
            digest.update(f"\n{self.names[shard]} {file.stat().st_size}".encode())
            digest.update(_footer(file))
            about = open_shard(file).metadata
            for group in range(about.num_row_groups):
                groups.append((shard, group))
                counts.append(about.row_group(group).num_rows)
                sizes.append(about.row_group(group).total_byte_size)
        self.groups = np.array(groups, dtype=np.int64).reshape(-1, 2)
        """(G, 2): file, and row group in it."""
        self.first = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        """(G + 1,): the number that the first row of each group has among all."""
        self.bytes = np.array(sizes, dtype=np.int64)
        """(G,): of each group, uncompressed."""
        self.digest = digest.digest()
        """SHA-256 over the files' sizes and footers, which say where each row group lies."""
        self._pool: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pool": {}}

    def key(self, row: int) -> str:
        """What identifies a row for good: its file and its number there."""
        shard = self._shard(row)
        return f"{self.names[shard]}/{row - self._first_of_shard[shard]}"

    def read(self, row: int) -> bytes:
        """The encoded picture of a row.

        Raises:
            PictureError: there is none, or the row group is damaged.
        """
        group = int(np.searchsorted(self.first, row, "right")) - 1
        if group not in self._pool:
            room = POOL_BYTES + int(self.bytes.max()) - int(self.bytes[group])
            while self._pool and sum(self.bytes[list(self._pool)]) > room:
                del self._pool[next(iter(self._pool))]  # the one that was read first
            try:
                self._pool[group] = self._read(group)
            except Exception as error:  # of the disk, of a checksum, of a codec
                reason = " ".join(str(error).split())
                raise PictureError(self.key(row), f"cannot be read: {reason}") from error
        value = self._pool[group][row - int(self.first[group])].as_py()
        if isinstance(value, dict):
            value = value["bytes"]
        if value is None:
            raise PictureError(self.key(row), "the row holds no picture's bytes")
        return value

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that all files have, beside the pictures."""
        names = []
        for file in self.files:
            with open_shard(file) as opened:
                names.append(opened.schema_arrow.names)
        return tuple(n for n in names[0] if n != self.column and all(n in each for each in names))

    def values(self, column: str) -> list[Any]:
        """A column's value of each row."""
        values: list[Any] = []
        for file in self.files:
            with open_shard(file) as opened:
                table = opened.read(columns=[column], use_threads=False)
            values += table.column(0).to_pylist()
        return values

    def _read(self, group: int) -> Any:
        shard, within = self.groups[group].tolist()
        with open_shard(self.files[shard]) as file:
            # Threads of Arrow would not survive a fork into workers.
            table = file.read_row_group(within, columns=[self.column], use_threads=False)
        return table.column(0)

    def _shard(self, row: int) -> int:
        return int(np.searchsorted(self._first_of_shard, row, "right")) - 1

    @cached_property
    def _first_of_shard(self) -> np.ndarray:
        starts = np.searchsorted(self.groups[:, 0], np.arange(len(self.files)))
        return self.first[starts]


class Rows:
    """Those rows of shards that belong to a split; `numbers` int64 (N,) count through all files."""

    def __init__(self, shards: Shards, numbers: np.ndarray) -> None:
        self.shards = shards
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, index: int) -> bytes:
        """The encoded picture; errors as of `Shards.read`."""
        return self.shards.read(int(self.numbers[index]))

    def column(self, name: str) -> list[Any]:
        """What a column of the table says of each."""
        values = self.shards.values(name)
        return [values[number] for number in self.numbers.tolist()]

    def order(self, seed: int, epoch: int) -> Tensor:
        """The rows shuffled for an epoch, int64 (N,): files, row groups in each, rows of a pool."""
        groups = self._groups()
        present = np.unique(groups)
        file_of = self.shards.groups[present, 0]
        by_file = _ranks(seed, epoch, len(self.shards.files), stream=1)[file_of]
        by_group = _ranks(seed, epoch, len(self.shards.groups), stream=2)[present]
        sequence = present[np.lexsort((by_group, by_file))]
        sizes = self.shards.bytes[sequence]
        pool = np.empty(len(self.shards.groups), np.int64)
        pool[sequence] = (np.cumsum(sizes) - sizes) // POOL_BYTES
        by_row = _ranks(seed, epoch, len(self), stream=3)
        return torch.from_numpy(np.lexsort((by_row, pool[groups])))

    def sample(self, count: int) -> list[int]:
        """At most `count` places, in whole row groups that are evenly spaced."""
        if len(self) <= count:
            return list(range(len(self)))
        starts = np.flatnonzero(np.diff(self._groups(), prepend=-1))
        ends = np.append(starts[1:], len(self))
        taken = max(1, int(count * len(starts) / len(self)))
        chosen = np.arange(taken) * len(starts) // taken
        places = [np.arange(starts[i], ends[i]) for i in chosen]
        return np.concatenate(places)[:count].tolist()

    def _groups(self) -> np.ndarray:
        """The row group of each, int64 (N,)."""
        return np.searchsorted(self.shards.first, self.numbers, "right") - 1


class RowKeys(Sequence[str]):
    """The keys of rows, made when they are asked for."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.rows.shards.key(int(self.rows.numbers[index]))


def open_shard(file: Path) -> Any:
    """A pyarrow.parquet.ParquetFile.

    Raises:
        InputError: pyarrow is missing, or the file is no whole Parquet file.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError(f"{file}: Parquet needs pyarrow: pip install 'deepen[stream]'") from error
    try:
        return pq.ParquetFile(file, memory_map=True)
    except Exception as error:  # of the system, of Arrow
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: no whole Parquet file: {reason}") from error


def _footer(file: Path) -> bytes:
    """The metadata at the end, as Parquet's format has it: their length and PAR1 come last."""
    with open(file, "rb") as stream:
        stream.seek(-8, os.SEEK_END)
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(-8 - length, os.SEEK_END)
        return stream.read(length)


def _ranks(seed: int, epoch: int, n: int, stream: int) -> np.ndarray:
    """The place of each of n in a shuffle of its own, int64 (n,)."""
    return permutation(seed, epoch, n, stream).argsort().numpy()
