"""Lines of a text file as people's tools write them: gzip or plain, with a BOM or without, LF or CRLF, blank lines."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_OTHERS = {  # how a file begins that is no text
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PAR1": "Parquet",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


class UnreadableFile(ValueError):
    """A file that holds no text, or is cut off; the message names it and says what it is."""


def numbered_lines(path: Path, read: Callable[[int], object] = lambda size: None) -> Iterator[tuple[int, bytes]]:
    """Number and content of each line that is not blank, without BOM and line end. gzip is told by its first bytes.

    `read` is told, as the file is read, of every so many bytes. Raises UnreadableFile, OSError.
    """
    with path.open("rb") as file:
        begin = file.read(6)
        for magic, name in _OTHERS.items():
            if begin.startswith(magic):
                raise UnreadableFile(f"{path}: {name} given, UTF-8 text, plain or gzip, is allowed")
        file.seek(0)
        lines = gzip.GzipFile(fileobj=file) if begin.startswith(_GZIP) else file
        at = 0
        try:
            for number, line in enumerate(io.BufferedReader(lines) if lines is not file else lines, 1):
                if (now := file.tell()) != at:
                    read(now - at)
                    at = now
                if text := line.removeprefix(BOM).strip():
                    yield number, text
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UnreadableFile(f"{path}: gzip that is cut off or broken: {error}") from None
