"""What a bundle's report must say before it goes live."""

import json
import operator
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from model.bundle.layout import REPORT

OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_FORM = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(>=|<=|>|<)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*")
JUDGED = ("test", "validation")  # where a figure without a dot is looked for


class Barred(Exception):
    """The report keeps a bundle from going live; the message says what it says."""


class Gate(NamedTuple):
    figure: str  # `auc`, or with its place in the report: `validation.auc`
    sign: str
    limit: float

    @classmethod
    def of(cls, text: str) -> "Gate":
        """Raises ValueError."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r}; FIGURE>=NUMBER is allowed (or <=, >, <), such as auc>=0.6")
        return cls(match[1], match[2], float(match[3]))

    def check(self, report: dict[str, Any]) -> None:
        """Raises Barred."""
        value = self._value(report)
        told = f"{self.figure}{self.sign}{self.limit:g} is asked"
        if not isinstance(value, int | float) or isinstance(value, bool):
            there = sorted({name for split in JUDGED for name in numbers(report.get(split))})
            raise Barred(f"{told}, and the report has no such figure; it has {', '.join(there) or 'none'}")
        if not OPERATORS[self.sign](value, self.limit):
            raise Barred(f"{told}, and its report says {value:g}")

    def _value(self, report: dict[str, Any]) -> Any:
        for path in (self.figure, *(f"{split}.{self.figure}" for split in JUDGED)):
            value: Any = report
            for name in path.split("."):
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None:
                return value
        return None


def numbers(figures: Any) -> list[str]:
    return [name for name, value in figures.items() if isinstance(value, float)] if isinstance(figures, dict) else []


def check(folder: Path, gates: Sequence[Gate], anyway: bool) -> None:
    """Raises Barred; `anyway` lets in what its own training kept from being published."""
    try:
        report = json.loads((folder / REPORT).read_text())
    except (OSError, ValueError):
        report = {}
    if report.get("published") is False and not anyway:
        why = next(iter(report.get("warnings") or ()), "its report says published: false")
        raise Barred(f"its training did not publish it: {why} (--publish-anyway does)")
    for gate in gates:
        gate.check(report)
