"""The report's dict → one HTML file: budgets, figures and plots, nothing to load from anywhere, light or dark."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadtest.verdict import compare, plots
from loadtest.verdict.report import MOST_LATE
from model.pages.render import render

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
        most_late=MOST_LATE,
    )
