"""A journal's file: a line that says what it is, then blocks of records, each with its length and checksum.

    {"format": "bst-ranker journal", "version": 1, "service": "0.1.0", "worker": 0, "started_us": …}\\n
    length of the payload, crc32 of the payload (little-endian, 32 bits each), payload: JSON lines, zstd

A file that was cut is read up to its last whole block, and the reader tells how much came after.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import orjson

from model.servicelog.records import VERSION
from service.wire.codings import zstd

FORMAT = "bst-ranker journal"
BLOCK = 1 << 20  # bytes of records that one block holds, unless one record has more: what a reader holds at once
MOST_BLOCK = 1 << 28  # a length above it is no length
LINE = 4096  # bytes of a first line, at most
LEVEL = 1
_HEAD = struct.Struct("<II")


class NotReadable(Exception):
    """A file that is no journal, or one of another version; says so."""


def first_line(**fields: Any) -> bytes:
    return orjson.dumps({"format": FORMAT, "version": VERSION, **fields}) + b"\n"


def blocks(lines: Sequence[bytes]) -> Iterator[bytes]:
    """Records as blocks, ready to be appended. Compressing gives the interpreter's lock back."""
    chunk: list[bytes] = []
    size = 0
    for line in lines:
        if chunk and size + len(line) > BLOCK:
            yield _block(chunk)
            chunk, size = [], 0
        chunk.append(line)
        size += len(line) + 1
    if chunk:
        yield _block(chunk)


def _block(lines: Sequence[bytes]) -> bytes:
    payload = zstd.compress(b"\n".join(lines), LEVEL)
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


class Reader:
    """The records of one file, block by block. `cut` is how many bytes at its end are no whole block, once it is read.

    Raises NotReadable.
    """

    def __init__(self, file: BinaryIO):
        self._file, self.cut = file, 0
        line = file.readline(LINE)
        try:
            self.head: dict[str, Any] = orjson.loads(line) if line.endswith(b"\n") else {}
        except orjson.JSONDecodeError:
            self.head = {}
        if not isinstance(self.head, dict) or self.head.get("format") != FORMAT:
            raise NotReadable("no journal: its first line does not say that it is one")
        if self.head.get("version") != VERSION:
            raise NotReadable(f"a journal of version {self.head.get('version')!r}, this release reads {VERSION}")

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        at = self._file.tell()
        while (records := following(self._file)) is not None:
            yield records
            at = self._file.tell()
        self._file.seek(at)
        self.cut = self._rest()

    def _rest(self) -> int:
        rest = 0
        while piece := self._file.read(BLOCK):
            rest += len(piece)
        return rest


def following(file: BinaryIO) -> list[dict[str, Any]] | None:
    """The records of the block that begins here; None: there is no whole one, or not yet."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, crc = _HEAD.unpack(head)
    payload = file.read(length) if 0 < length <= MOST_BLOCK else b""
    if not payload or len(payload) < length or zlib.crc32(payload) != crc:
        return None
    return [orjson.loads(line) for line in zstd.decompress(payload).split(b"\n")]


def passed(file: BinaryIO) -> int | None:
    """Where what is whole by now ends, without a look into it; None: it is no journal of this version."""
    try:
        Reader(file)
    except NotReadable:
        return None
    at, end = file.tell(), file.seek(0, 2)
    file.seek(at)
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        length = _HEAD.unpack(head)[0]
        if not 0 < length <= MOST_BLOCK or at + _HEAD.size + length > end:
            break
        at = file.seek(at + _HEAD.size + length)
    return at
