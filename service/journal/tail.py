"""A journal's records as they are written, for a reader beside its writers.

Files are read block by block, each once, by whatever name they have by then; what a drain takes away unread is gone.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.journal.file import CLOSED, OPEN
from service.journal.framing import NotReadable, Reader, following, passed


class Tail:
    """New records of the files in `folder`; of those that were written to in the last `since_s` seconds all."""

    def __init__(self, folder: Path, since_s: float):
        self._folder = folder
        self._at: dict[str, int | None] = {}  # by a file's name without its end: read up to there; None: not to be read
        for path in self._files():
            with suppress(FileNotFoundError), path.open("rb") as file:
                if time.time() - os.fstat(file.fileno()).st_mtime > since_s:
                    self._at[path.stem] = passed(file)

    def read(self) -> Iterator[dict[str, Any]]:
        """As lines.record takes them, from what was written since. Raises OSError where the folder cannot be read."""
        files = self._files()
        there = {path.stem for path in files}
        self._at = {stem: at for stem, at in self._at.items() if stem in there}
        for path in files:
            if self._at.get(path.stem, 0) is None:
                continue
            try:
                with path.open("rb") as file:
                    at = self._at.get(path.stem, 0)
                    if at:
                        file.seek(at)
                    else:
                        Reader(file)  # its first line
                        self._at[path.stem] = file.tell()
                    while (records := following(file)) is not None:
                        self._at[path.stem] = file.tell()
                        yield from records
            except FileNotFoundError:  # it was closed, or drained, meanwhile
                continue
            except NotReadable:
                self._at[path.stem] = None

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.iterdir() if path.suffix in (OPEN, CLOSED))
