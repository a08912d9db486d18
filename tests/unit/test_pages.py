"""What all pages share: what is told is escaped, what is misspelt raises, plots take the page's colours."""

import re
from pathlib import Path

import jinja2
import pytest
from matplotlib.figure import Figure

from model.pages.drawing import GRID, INK, drawn, panels
from model.pages.render import number, render

PAGE = """{% extends "base.html" %}{% from "parts.html" import table, mark %}
{% block title %}{{ name }}{% endblock %}
{% block body %}{% call table(["a", "*b\nc"]) %}<tr><td>{{ name }}</td><td>{{ mark(good, "pass", "fail") }}</td></tr>
{% endcall %}{{ plot }}{{ missing|number }}{% endblock %}"""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_text(PAGE)
    return path


@drawn("a < b")
def line(draw: bool) -> Figure | None:
    figure, (axes,) = panels(3, 2)
    axes.plot([0, 1], [0, 1], color=INK, label="line")
    return figure if draw else None


def test_a_page_is_whole_escapes_what_it_shows_and_loads_nothing(template: Path) -> None:
    html = render(template, name="<b>&", good=False, plot=line(True), missing=None)
    assert html.startswith("<!doctype html>") and html.endswith("</body></html>")
    assert html.count("&lt;b&gt;&amp;") == 2 and "<b>&" not in html
    assert '<th class="text">b\nc</th>' in html and '<span class="bad">fail</span>' in html and "–" in html
    assert not re.search(r"<(script|link|img|iframe)|@import|url\((?!#)|\b(src|href)=[\"'](?!#)", html)


def test_a_name_that_nobody_gave_is_an_error_and_not_a_gap(template: Path) -> None:
    with pytest.raises(jinja2.UndefinedError, match="'name' is undefined"):
        render(template, good=True, plot="", missing=None)


def test_a_plot_takes_the_pages_colours_and_one_without_data_is_nothing() -> None:
    svg = line(True)
    assert svg.startswith('<svg role="img" aria-label="a &lt; b"') and "currentColor" in svg
    assert INK not in svg and GRID not in svg and "var(--grid)" in svg
    assert line(True) == svg, "ids do not change from one report to the next"
    assert line(False) == ""


def test_numbers_have_a_typographic_minus_and_none_is_a_dash() -> None:
    assert [number(-0.5), number(1234.4, ",.0f"), number(None)] == ["−0.5000", "1,234", "–"]
