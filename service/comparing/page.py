"""The report's dict → one HTML file: verdict, tables and plots, nothing to load from anywhere, light or dark."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.pages.render import render
from service.comparing import plots
from service.comparing.arms import when
from service.comparing.shadows import ASSUMPTION

TEMPLATE = Path(__file__).with_name("report.html")


def html(report: Mapping[str, Any]) -> str:
    """The whole page."""
    return render(TEMPLATE, report=report, plots=plots, when=when, assumption=ASSUMPTION)
