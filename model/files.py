"""Files and folders that are whole or not there: written beside their place, then renamed into it.

A reader sees the old one or the new one, also where the writer is killed (of folders: where they can be exchanged in
one step, as on Linux' own file systems). Of a killed writer a path `.<name>-<pid>…`
is left; the next one who writes the same name removes it.
"""

import ctypes
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A free path in the same folder and with the same suffix, to write a file or a folder to that becomes `path`.

    What still stands there on leaving is removed, so whoever wants it renames it first.
    """
    for left in path.parent.glob(f"{escape(partial_prefix(path.name))}*"):
        if not _lives(left.name.removeprefix(partial_prefix(path.name)).partition(".")[0]):
            _remove(left)
    partial = path.with_name(f"{partial_prefix(path.name)}{os.getpid()}{path.suffix}")
    _remove(partial)
    try:
        yield partial
    finally:
        _remove(partial)


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """As `beside`, and on leaving without an error what was written takes the place of what `path` was, if anything.

    A file never takes a folder's place: raises IsADirectoryError. `durable` (a file): it is on the disk before, or a
    power cut could leave the new name on an empty file.
    """
    with beside(path) as partial:
        try:
            yield partial
        except FileNotFoundError as error:
            if error.filename == str(partial):  # a name that nobody gave: what is missing is where it was to stand
                raise FileNotFoundError(error.errno, error.strerror, str(path.parent)) from None
            raise
        if durable:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        if path.is_dir() and not path.is_symlink():
            if not partial.is_dir():  # a file in the stead of a folder is never what was meant
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            if _exchanged(partial, path):
                return  # the old one stands beside, and is removed there
            shutil.rmtree(path)  # a folder is not renamed onto another one
        partial.replace(path)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchanges two folders in one step, so that a kill leaves a whole one under each name. False: it cannot be done.

    renameat2 of Linux; some C libraries and file systems have none.
    """
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    done: int = renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange)
    return done == 0


class AlreadyHeld(OSError):
    """Another process holds what only one may; `pid` is its number."""

    def __init__(self, path: Path, pid: str):
        super().__init__(f"{path} is held by process {pid}")
        self.pid = pid


def another_name(file: Path, name: Path) -> None:
    """A second name for a file that nobody writes into; a copy where the file system has no such names."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copy2(file, name)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """A lock file that one process at a time holds, until it leaves or dies. Raises AlreadyHeld at once."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AlreadyHeld(path, file.read().strip() or "unknown") from None
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise AlreadyHeld(path, "that is just ending")  # its holder removed it since it was opened here
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def partial_prefix(name: str) -> str:
    """How the name of what is still being written begins, for one to be called `name`."""
    return f".{name}-"


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError, OverflowError):  # ValueError: the name of something else that begins alike
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
