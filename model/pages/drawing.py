"""matplotlib's figures → SVG that stands inside a page.

What is drawn in INK and GRID takes the page's own colours, light or dark; other colours are to be of a middle tone that
reads on both. Text stays text.
"""

import functools
import io
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, GRID = "#010203", "#040506"  # stand-ins, replaced by what the page's style says
STYLE: Any = {  # matplotlib types every key of it
    "svg.fonttype": "none",
    "svg.hashsalt": "page",  # ids that do not change from one report to the next
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
}

Arguments = ParamSpec("Arguments")


def drawn(title: str) -> Callable[[Callable[Arguments, Figure | None]], Callable[Arguments, Markup]]:
    """A function that draws a figure becomes one that gives an SVG element, or nothing for None.

    The element scales with the page; `title` is for who cannot see it.
    """

    def of(draw: Callable[Arguments, Figure | None]) -> Callable[Arguments, Markup]:
        @functools.wraps(draw)
        def svg(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Markup:
            with matplotlib.rc_context(STYLE):
                figure = draw(*args, **kwargs)
                return Markup() if figure is None else _svg(figure, title)

        return svg

    return of


def panels(width: float, height: float, count: int = 1, **how: Any) -> tuple[Figure, Sequence[Axes]]:
    """A figure, in inches, with so many plots side by side."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(1, count, squeeze=False, **how)[0]


def _svg(figure: Figure, title: str) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor").replace(GRID, "var(--grid)")
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1))
