"""Prometheus' text format, written line by line.

prometheus_client's own writer was used first: with 8 workers' series it took two thirds of a scrape, and a scrape
longer than the 10 ms it may take, because it checks and escapes every label of every line each time. Here a line's
beginning is written once and kept. Its numbers and its content type are still the library's.
"""

from collections.abc import Sequence
from functools import lru_cache

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.utils import floatToGoString

__all__ = ["CONTENT_TYPE", "Labels", "Text"]

Labels = tuple[tuple[str, str], ...]  # name and value of each


class Text:
    """The body of a scrape, one family after another."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, text: str) -> None:
        """Begins the family whose samples follow. `kind`: counter, gauge, histogram or summary."""
        self._lines.append(f"# HELP {name} {text}\n# TYPE {name} {kind}\n")

    def sample(self, name: str, labels: Labels, value: float) -> None:
        self._lines.append(f"{_series(name, labels)} {number(value)}\n")

    def single(self, name: str, kind: str, text: str, value: float) -> None:
        """A family of one sample without labels."""
        self.family(name, kind, text)
        self.sample(name, (), value)

    def histogram(
        self, name: str, labels: Labels, bounds: tuple[float, ...], upto: Sequence[float], total: float
    ) -> None:
        """`upto` counts what is no larger than each bound, and at its end all; `total` is the sum."""
        self._lines.append(_histogram(name, labels, bounds, tuple(upto), total))

    def encode(self) -> bytes:
        return "".join(self._lines).encode()


def number(value: float) -> str:
    if type(value) is int and value < 1_000_000:  # most are, and the library writes them so
        return f"{value}.0"
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]  # its package says nothing of it
    return text


@lru_cache(16384)  # the series of a service are some two thousand
def _series(name: str, labels: Labels) -> str:
    if not labels:
        return name
    return name + "{" + ",".join(f'{label}="{_escaped(value)}"' for label, value in sorted(labels)) + "}"


@lru_cache(1024)  # most models in a scrape are retired: their counts no longer change
def _histogram(name: str, labels: Labels, bounds: tuple[float, ...], upto: tuple[float, ...], total: float) -> str:
    lines = [f"{series} {number(count)}\n" for series, count in zip(_buckets(name, labels, bounds), upto, strict=True)]
    lines.append(f"{_series(name + '_count', labels)} {number(upto[-1])}\n")
    lines.append(f"{_series(name + '_sum', labels)} {number(total)}\n")
    return "".join(lines)


@lru_cache(4096)
def _buckets(name: str, labels: Labels, bounds: tuple[float, ...]) -> list[str]:
    return [_series(f"{name}_bucket", (*labels, ("le", bound))) for bound in (*map(number, bounds), "+Inf")]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
