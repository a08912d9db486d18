"""Figures for people: one table for the load test and for every benchmark."""

from collections.abc import Mapping, Sequence


def table(corner: str, head: Sequence[object], rows: Mapping[str, Sequence[object]]) -> str:
    """Columns as wide as their cells: floats with two or three digits, None as nothing."""
    cells = [[corner, *map(str, head)], *([name, *map(_cell, row)] for name, row in rows.items())]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in cells
    )


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3f}"
        case int():
            return f"{value:,}"
    return str(value)
