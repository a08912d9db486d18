"""A folder or an archive becomes a folder of plain files: no link, device, absolute name or `..` comes through.

An archive's own word on sizes is not believed: bytes are counted as they are written, against a limit, and against what
so many packed bytes can honestly hold.
"""

import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn, cast

from model.bundle.layout import OLDER, BundleError
from service.models.installing.fetch import Readable, copied
from service.wire.codings import zstd

MOST_FILES = 10_000
RATIO, FREELY = 200, 256 * 2**20  # unpacked bytes per packed one; so many are allowed whatever the ratio
ALLOWED = "a folder, .tar, .tar.gz, .tar.bz2, .tar.xz, .tar.zst or .zip is allowed"
ZIP = b"PK"  # how such a file begins
ZSTD = b"\x28\xb5\x2f\xfd"  # how such a file begins
BROKEN = (
    tarfile.TarError,
    zstd.ZstdError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    UnicodeError,
    ValueError,
)


class Budget:
    """What may still be written."""

    def __init__(self, what: str, most_bytes: int):
        self._what, self._bytes, self._files = what, most_bytes, 0
        self._most = most_bytes

    def write(self, source: Readable, to: Path) -> None:
        """Raises BundleError."""
        self._files += 1
        if self._files > MOST_FILES:
            raise BundleError(f"{self._what}: more than {MOST_FILES} files, no bundle has so many")
        to.parent.mkdir(parents=True, exist_ok=True)
        with to.open("xb") as file:
            try:
                self._bytes -= copied(source, file, self._bytes, self._what)
            except BundleError:
                raise BundleError(
                    f"{self._what}: it unpacks to more than {self._most} bytes, which no bundle of its size does, or "
                    "--max-gb forbids"
                ) from None
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave a version with empty files


def unpack(source: Path, into: Path, most_bytes: int) -> None:
    """Raises BundleError, which names the first entry that may not be; `into` is then the caller's to remove."""
    into.mkdir()
    if source.is_dir():
        _copy(source, into, Budget(str(source), most_bytes))
        return
    if not source.is_file():
        raise BundleError(f"{source} is not there; {ALLOWED}")
    most_bytes = min(most_bytes, max(FREELY, RATIO * source.stat().st_size))
    budget = Budget(str(source), most_bytes)
    try:
        if _is_zip(source):
            _unzip(source, into, budget)
        else:
            with _tar(source) as archive:
                _untar(source, archive, into, budget)
    except BundleError:
        raise
    except BROKEN as error:
        raise BundleError(f"{source} is no whole archive ({error}); {ALLOWED}") from None
    except FileExistsError as error:
        raise BundleError(f"{source}: {Path(str(error.filename)).name} is in it twice") from None


def _is_zip(source: Path) -> bool:
    """By its beginning too: a tar whose last file is a zip (weights.pt is one) ends as a zip does."""
    with source.open("rb") as file:
        return file.read(len(ZIP)) == ZIP and zipfile.is_zipfile(source)


def _copy(source: Path, into: Path, budget: Budget) -> None:
    root = source.resolve()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if name.is_relative_to(OLDER):
            continue  # what another place once served is of no use here
        target = path.resolve()
        if not target.is_relative_to(root):
            raise BundleError(f"{source}: {name} leads out of it, to {target}")
        if path.is_dir():
            if path.is_symlink():
                raise BundleError(f"{source}: {name} is a link to a folder; a bundle has none")
        elif path.is_file():
            with path.open("rb") as file:
                budget.write(file, into / name)
        else:
            raise BundleError(f"{source}: {name} is no file")


def _unzip(source: Path, into: Path, budget: Budget) -> None:
    with zipfile.ZipFile(source) as archive:
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                _refuse(source, entry.filename, "is no file")
            if entry.flag_bits & 1:
                _refuse(source, entry.filename, "is encrypted")
            to = _inside(source, entry.filename, into)
            with archive.open(entry) as file:
                budget.write(file, to)


def _untar(source: Path, archive: tarfile.TarFile, into: Path, budget: Budget) -> None:
    for entry in archive:
        if entry.isdir():
            continue
        if not entry.isreg():
            what = "a link" if entry.issym() or entry.islnk() else "a device or pipe"
            _refuse(source, entry.name, f"is {what}, and no file")
        to = _inside(source, entry.name, into)
        file = archive.extractfile(entry)
        assert file is not None  # it is regular
        budget.write(file, to)


@contextmanager
def _tar(source: Path) -> Iterator[tarfile.TarFile]:
    with source.open("rb") as file:
        packed = file.read(4) == ZSTD
        file.seek(0)
        if not packed:
            with tarfile.open(fileobj=file, mode="r|*") as archive:
                yield archive
            return
        with zstd.open(file, "rb") as stream, tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as archive:
            yield archive


def _inside(source: Path, name: str, into: Path) -> Path:
    """Where an entry goes. Raises BundleError for one that would go elsewhere."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        _refuse(source, name, "leads out of the bundle's folder")
    return into / pure


def _refuse(source: Path, name: str, why: str) -> NoReturn:
    raise BundleError(f"{source}: {name[:200]!r} {why}; nothing was installed")
