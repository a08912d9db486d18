r"""A journal's file: a head, then blocks of lines, each whole or known to be cut.

    bst-ranker journal 1\n{"worker": 0, "made_us": 1795788000000000}\n
    length, crc32 (4 bytes each, little-endian), a zstd frame of so many bytes: lines of JSON    and so on

A file that is being written is called `….open`, and its writer holds a lock on it (flock), which goes with the process;
one that is done `….journal`. So whoever drains the folder knows a live file from a dead one's.
"""

import fcntl
import os
import secrets
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson

from model.servicelog.records import VERSION
from service.wire.codings import zstd

MAGIC = b"bst-ranker journal "
OPEN, DONE, MAKING = ".open", ".journal", ".new"
LEVEL = 1  # of zstd: higher ones take longer for little
BLOCK_BYTES = 1 << 20  # of lines, about: a block is made plain at once
MOST_BYTES = 1 << 28  # of a block; a longer one is no length, but what stands where one should
_FRAME = struct.Struct("<II")


class WrongFile(ValueError):
    """No journal, or one that this release does not read; says which."""


def check_folder(folder: Path) -> None:
    """Makes it where it is missing, and sees whether a file can be written there. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    JournalFile(folder, 0).close()


class JournalFile:
    """One worker's file, in the making. For one thread."""

    def __init__(self, folder: Path, worker: int):
        """Raises OSError."""
        made = datetime.now(UTC)
        name = f"{made:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}-w{worker}"
        self._done = folder / f"{name}{DONE}"
        self._path = folder / f"{name}{MAKING}"
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            head = orjson.dumps({"worker": worker, "made_us": time.time_ns() // 1000})
            self.bytes = self._written(MAGIC + b"%d\n" % VERSION + head + b"\n", 0)
            self._path = self._path.rename(folder / f"{name}{OPEN}")  # locked by now: nobody takes it for a dead one's
        except OSError:
            os.close(self._fd)
            self._path.unlink(missing_ok=True)
            raise
        self.begun_s = time.monotonic()
        self.empty = True

    def append(self, lines: Sequence[bytes], sync: bool) -> int:
        """Lines as blocks, all of them or none; `sync`: on the disk too. The bytes that they took. Raises OSError."""
        content = b"".join(map(_block, _portions(lines)))
        before = self.bytes
        try:
            self.bytes = self._written(content, before)
            if sync:
                os.fdatasync(self._fd)
        except OSError:
            self.bytes = before
            os.ftruncate(self._fd, before)
            raise
        self.empty = False
        return len(content)

    def close(self) -> None:
        """It is done: nobody writes into it any more. One without lines goes."""
        if self.empty:
            self._path.unlink(missing_ok=True)
        else:
            self._path.rename(self._done)
        os.close(self._fd)

    def _written(self, content: bytes, at: int) -> int:
        left = memoryview(content)
        while left:
            count = os.pwrite(self._fd, left, at)
            left, at = left[count:], at + count
        return at


def _portions(lines: Sequence[bytes]) -> Iterator[bytes]:
    begin = size = 0
    for at, line in enumerate(lines):
        size += len(line)
        if size >= BLOCK_BYTES or at == len(lines) - 1:
            yield b"\n".join(lines[begin : at + 1])
            begin, size = at + 1, 0


def _block(lines: bytes) -> bytes:
    content = bytes(zstd.compress(lines, LEVEL))
    return _FRAME.pack(len(content), zlib.crc32(content)) + content


class Reading:
    """A journal's file, read block by block. `cut_bytes`: what stood behind the last whole block, once all are read."""

    def __init__(self, path: Path):
        """Raises WrongFile, OSError."""
        self._file = path.open("rb")
        self._path, self.cut_bytes = path, 0
        head = self._file.readline(64)
        if not head.startswith(MAGIC):
            self._file.close()
            raise WrongFile(f"{path}: no journal: it begins with {head[:20]!r}")
        version = head[len(MAGIC) :].strip().decode("latin-1")
        if version != str(VERSION):
            self._file.close()
            raise WrongFile(f"{path}: a journal of version {version}; this release reads version {VERSION}")
        self._file.readline(4096)

    def __iter__(self) -> Iterator[list[bytes]]:
        """The lines of each whole block."""
        with self._file:
            end = os.fstat(self._file.fileno()).st_size
            at = self._file.tell()
            while at < end:
                frame = self._file.read(_FRAME.size)
                length, crc = _FRAME.unpack(frame) if len(frame) == _FRAME.size else (MOST_BYTES + 1, 0)
                content = self._file.read(length) if length <= MOST_BYTES else b""
                if len(content) != length or zlib.crc32(content) != crc:
                    self.cut_bytes = end - at
                    return
                at += _FRAME.size + length
                yield zstd.decompress(content).split(b"\n")
