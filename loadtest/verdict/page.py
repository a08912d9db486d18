"""The report's dict → one HTML file: budgets, figures and plots, nothing to load from anywhere, light or dark."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadtest.quantiles import told
from loadtest.verdict import compare, plots
from loadtest.verdict.report import MISSED, MOST_LATE, PASSED
from loadtest.verdict.words import FEW
from model.pages.render import render

OUTCOMES = {
    "right": "right",
    "degraded": "right, degraded",
    "refused": "refused (429)",
    "late": "late (504)",
    "wrong": "wrong",
    "failed": "failed",
    "unanswered": "unanswered",
}
TEMPLATE = Path(__file__).with_name("report.html")


def html(report: Mapping[str, Any], old: Mapping[str, Any] | None) -> str:
    """The whole page; `old` is an earlier report to compare with."""
    return render(
        TEMPLATE,
        report=report,
        old=old,
        searched=report.get("search", {}),
        changes=compare.changes(old, report) if old else {},
        compare=compare,
        plots=plots,
        quantile=quantile,
        unserved=unserved,
        colours={PASSED: "good", MISSED: "bad"},
        outcomes=OUTCOMES,
        few=FEW,
        most_late=MOST_LATE,
    )


def quantile(one: Mapping[str, Any], key: str) -> str:
    return told(one[key], key not in one["too_few_for"])


def unserved(one: Mapping[str, Any]) -> float:
    """The share of the requests that its budget of errors holds."""
    refused = one["refused"] if one["budget"]["refused"] is None else 0
    share: float = (one["errors"] + one["late"] + refused) / one["requests"]
    return share
