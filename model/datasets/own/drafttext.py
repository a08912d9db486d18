"""The drafted features.toml as text, and what a person reads of it on the screen."""

from collections.abc import Mapping, Sequence
from textwrap import shorten, wrap
from typing import Any

import tomli_w

from model.datasets.own.derived import CROSS
from model.datasets.own.judging import SIDES, Entry, Log
from model.datasets.own.profile import OF_WHOM
from model.datasets.tables import TABLES
from model.features.ids import IdType

HEAD = """\
# Drafted from the tables by `python -m model.prepare --draft`; each choice has its reason. Go through it: you know the
# log, the draft only counted. docs/data.md explains every key.
"""
CROSSES = """\
# Crosses are left out. One that often helps, a user's or a request's feature with the item or its category:
#
# [[feature]]
# name = "{of}_x_item"
# side = "cross"
# kind = "category"
# of = ["{of}", "item_id"]
# buckets = 20000
# width = 4
"""


def text(
    log: Log,
    history: Mapping[str, Any],
    groups: Sequence[str],
    user_type: IdType,
    entries: Sequence[Entry],
    notes: Sequence[str],
) -> str:
    lines = [HEAD]
    looked = [
        f"{name}: the rows of one {OF_WHOM[name].removesuffix('_id')} in {round(rows / max(1, seen))}"
        for name, rows in log.rows.items()
        if (seen := next(iter(log.tables[name].values())).rows) < rows
    ]
    if looked:
        lines += [*_comment(f"Looked at a part of what is there: {', '.join(looked)}."), ""]
    lines += [f'user_id = "{user_type}"', ""]
    for note in notes:
        lines += _comment(note)
    lines += ["[history]", *toml_lines(history), "", *groups]
    for table, side in SIDES.items():
        chosen = [entry for entry in entries if entry.table == table and entry.row is not None]
        out = [entry for entry in entries if entry.table == table and entry.row is None]
        if chosen or out:
            lines += [f"# ---- {side}", ""]
        for entry in chosen:
            lines += [*_comment(entry.why), "[[feature]]", *toml_lines(entry.row or {}), ""]
        if out:
            lines += [
                f"# Left out of {table}:",
                *(line for entry in out for line in _comment(f"{entry.name}: {entry.why}", "  ")),
                "",
            ]
    computed = [entry for entry in entries if entry.table == CROSS]
    if computed:
        lines += ["# ---- cross: computed, from the user's behaviours and from what was counted", ""]
    for entry in computed:
        lines += [*_comment(entry.why), "[[feature]]", *toml_lines(entry.row or {}), ""]
    for entry in entries:
        if entry.row and entry.row["kind"] == "category" and entry.row["side"] in ("user", "context"):
            return "\n".join([*lines, CROSSES.format(of=entry.name)])
    return "\n".join(lines)


def summary(log: Log, history: Mapping[str, Any], entries: Sequence[Entry], notes: Sequence[str]) -> tuple[str, ...]:
    lines = []
    for table in TABLES:
        there = log.tables.get(table)
        lines.append(f"{table}: {log.rows[table]:,} rows, {len(there)} columns" if there else f"{table}: no such table")
        for entry in entries:
            if entry.table == table:
                lines.append(_line(entry))
    if any(entry.table == CROSS for entry in entries):
        lines.append("computed, of no table")
        lines += [_line(entry) for entry in entries if entry.table == CROSS]
    lines.append(f"history: {', '.join(history['actions'])} on {history['object_type']}, newest {history['length']}")
    return (*lines, *(f"  {note}" for note in notes))


def _line(entry: Entry) -> str:
    what = _short(entry.row) if entry.row else "left out"
    return f"  {entry.name:<22} {what:<26} {shorten(entry.why, 100, placeholder=' …')}"


def _short(row: Mapping[str, Any]) -> str:
    if "what" in row:
        return f"{row['kind']} {row['what']}"
    kind = row["kind"] + (f" {row['transform']}" if "transform" in row else f" {row['type']}")
    widths = [str(row[key]) for key in ("width", "sequence_width") if key in row]
    return f"{kind}, {' + '.join(widths)} wide" if widths else kind


def toml_lines(row: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in row.items()]


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return tomli_w.dumps({"k": value}).strip().removeprefix("k = ")


def _comment(text: str, indent: str = "") -> list[str]:
    return [f"# {indent}{line}" for line in wrap(" ".join(text.split()), 116 - len(indent), break_long_words=False)]
