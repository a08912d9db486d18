"""What a URL holds, as a file: http and https by the standard library, s3 by boto3; bounded, and compared by sha256."""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

from model.bundle.layout import BundleError

SCHEMES = ("http", "https", "s3")
PIECE = 1 << 20
QUIET_S = 30.0  # that a server may send nothing


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def is_url(source: str) -> bool:
    return "://" in source


def fetch(url: str, to: Path, most_bytes: int) -> None:
    """Raises BundleError; an unfinished file is the caller's to remove."""
    scheme = urlsplit(url).scheme.lower()
    if scheme not in SCHEMES:
        raise BundleError(f"{shown(url)}: {scheme} URLs are not fetched; allowed: {', '.join(SCHEMES)}, or a path")
    with _s3(url) if scheme == "s3" else _http(url) as (source, size):
        if size is not None and size > most_bytes:
            raise BundleError(f"{shown(url)}: {size} bytes, at most {most_bytes} are taken (--max-gb)")
        with to.open("wb") as file:
            taken = copied(source, file, most_bytes, shown(url))
        if size is not None and taken != size:
            raise BundleError(f"{shown(url)}: ended after {taken} of {size} bytes")


def copied(source: Readable, to: IO[bytes], most_bytes: int, what: str) -> int:
    """How many bytes. Raises BundleError above `most_bytes`."""
    taken = 0
    while piece := source.read(PIECE):
        taken += len(piece)
        if taken > most_bytes:
            raise BundleError(f"{what}: more than {most_bytes} bytes, at most that many are taken (--max-gb)")
        to.write(piece)
    return taken


def compare(file: Path, sha256: str, what: str) -> None:
    """Raises BundleError where the file's sha256 is another."""
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != sha256.lower():
        raise BundleError(f"{what}: sha256 is {found}, {sha256.lower()} was given")


def shown(url: str) -> str:
    """Without a password or what a signature is made of."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextmanager
def _http(url: str) -> Iterator[tuple[Readable, int | None]]:
    try:
        with urllib.request.urlopen(url, timeout=QUIET_S) as answer:
            length = answer.headers.get("content-length")
            yield answer, int(length) if length and length.isdecimal() else None
    except urllib.error.HTTPError as error:
        raise BundleError(f"{shown(url)} is answered {error.code} {error.reason}") from None
    except (urllib.error.URLError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise BundleError(f"{shown(url)} cannot be fetched: {reason}") from None
    except TimeoutError:
        raise BundleError(f"{shown(url)}: nothing came for {QUIET_S:.0f} s") from None


@contextmanager
def _s3(url: str) -> Iterator[tuple[Readable, int | None]]:
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise BundleError(f"{shown(url)}: boto3 is needed for it: pip install 'bst-ranker[s3]'") from None
    parts = urlsplit(url)
    try:
        answer: Any = boto3.client("s3").get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))
        yield answer["Body"], int(answer["ContentLength"])
    except (BotoCoreError, ClientError) as error:
        raise BundleError(f"{shown(url)} cannot be fetched: {error}") from None
