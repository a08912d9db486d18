"""A table's file that carries its own sha256, so that it is swapped alone, while others read it.

A `.npy` with a trailer behind it, which numpy passes over, renamed into place whole. A reader's mapping of the file
before stays valid.
"""

import hashlib
import os
import re
from copy import copy
from pathlib import Path
from typing import NamedTuple, Self

from model.features.table import Table
from model.files import replacing

TRAILER = re.compile(rb"\n([a-z]{9}) ([0-9a-f]{16}) sha256 ([0-9a-f]{64})\n")
TRAILER_BYTES = 100
BLOCK = 1 << 20  # bytes read at a time


class Stamp(NamedTuple):
    """What tells one file at a path from the one before it."""

    inode: int
    modified_ns: int
    size: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        stat = path.stat()
        return cls(stat.st_ino, stat.st_mtime_ns, stat.st_size)


class Seal(NamedTuple):
    """What a file's end says: what the table was made for, and the sha256 of all before."""

    declared: str
    sha256: str


class Sealed:
    """What stands in such a file, opened."""

    stamp: Stamp | None
    sha256: str | None  # as its file's own end says
    _table: Table

    def shared(self, other: Self) -> Self:
        """The same in the memory of `other`, where that is of a file of the same content; else itself.

        `stamp` stays that of its own file, by which a newer one is seen.
        """
        if self.sha256 is None or self.sha256 != other.sha256:
            return self
        twin = copy(other)
        twin.stamp = self.stamp
        return twin

    def shares(self, other: object) -> bool:
        """Whether both are in the same memory."""
        return isinstance(other, Sealed) and self._table is other._table


def save(table: Table, path: Path, kind: str, declared: str) -> None:
    """Writes the file beside and renames it into place, so that `path` may be one that others have open.

    `kind` are nine letters, `declared` sixteen, which stand for what keys and values mean.
    """
    with replacing(path, durable=True) as partial:
        with partial.open("wb") as file:
            table.save(file)
        made_for = declared.encode()
        sha256 = _sha256(partial, partial.stat().st_size, made_for).encode()
        with partial.open("ab") as file:
            file.write(b"\n%s %s sha256 %s\n" % (kind.encode(), made_for, sha256))


def seal(path: Path, kind: str) -> Seal | None:
    """None stands behind a file that was cut off, or is of another kind, and behind one of a release before seals."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TRAILER_BYTES))
        found = TRAILER.fullmatch(file.read())
    if found is None or found[1].decode() != kind:
        return None
    return Seal(found[2].decode(), found[3].decode())


def unlike(path: Path, sealed: Seal) -> str | None:
    """What is wrong with a file whose sha256 is not what its own end says."""
    sha256 = _sha256(path, path.stat().st_size - TRAILER_BYTES, sealed.declared.encode())
    return None if sha256 == sealed.sha256 else f"sha256 {sha256[:12]}…, its own end says {sealed.sha256[:12]}…"


def _sha256(path: Path, size: int, declared: bytes) -> str:
    """sha256 of a file's first `size` bytes and what its trailer says it was made for."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while size and (block := file.read(min(BLOCK, size))):
            sha256.update(block)
            size -= len(block)
    sha256.update(declared)
    return sha256.hexdigest()
