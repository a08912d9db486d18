"""Which matches and statistics a draft proposes: for what the sequence holds, and for what was shown often enough."""

from collections.abc import Mapping, Sequence
from typing import Any

from model.datasets.own.judging import Entry
from model.features.kinds import ITEM_ID, USER_ID

CROSS = "cross"  # in the stead of a table: no table holds them
LENGTH = 100  # behaviours that a match looks at; a network attends to fewer
LATELY, JUST_NOW = 10, 2  # behaviours that cooccurrences look at: 20 and 3 are no better, and take more lookups
WIDTH = 4


def derived(entries: Sequence[Entry], drawn: bool, repeated: bool) -> list[Entry]:
    """Matches and statistics for the features of a draft.

    `drawn`: negatives are drawn, so that a click rate would tell how, and nobody chose what was shown.
    `repeated`: users come back to items.
    """
    rows = [entry.row for entry in entries if entry.row]
    taken = {entry.name for entry in entries}
    return [entry for entry in (*_matches(rows, drawn, repeated), *_statistics(rows, drawn)) if entry.name not in taken]


def _matches(rows: Sequence[Mapping[str, Any]], drawn: bool, repeated: bool) -> list[Entry]:
    of = [row["name"] for row in rows if row.get("sequence_width") and row["kind"] in ("id", "category")]
    made = []
    for name in of:
        if name == ITEM_ID and not repeated:
            continue
        for what, says in (
            ("count", f"How many of the user's newest {LENGTH} behaviours have the candidate's {name}"),
            ("age", "how long ago the newest of them was"),
            ("last", "whether it is that of the newest behaviour of all"),
            ("share", f"Which part of those {LENGTH}, or of as many as there are, has it"),
        ):
            row = {"kind": "match", "of": [name], "what": what, "length": LENGTH, "width": WIDTH}
            made.append(_entry(f"same_{_short(name)}_{what}", f"{says}.", row))
        # On a log whose negatives were not drawn they told nothing (model/LOG.md, 2026-11-28). Pairs of items are many,
        # and each takes a row of the table.
        if name == ITEM_ID or not drawn:
            continue
        for more, length, says in (
            ("", LATELY, f"How well its {name} goes with those of the user's newest {LATELY} behaviours"),
            ("_newest", JUST_NOW, f"and with those of the newest {JUST_NOW}"),
        ):
            row = {"kind": "match", "of": [name], "what": "cooccurrence", "length": length, "width": WIDTH}
            made.append(_entry(f"{_short(name)}_goes_with{more}", f"{says}.", row))
    return made


def _statistics(rows: Sequence[Mapping[str, Any]], drawn: bool) -> list[Entry]:
    of: list[tuple[str, ...]] = []
    of += [(name,) for row in rows if (name := row["name"]) == ITEM_ID or (name == USER_ID and not drawn)]
    of += [(row["name"],) for row in rows if row.get("sequence_width") and row["kind"] == "category"]
    contexts = [row["name"] for row in rows if row["side"] == "context" and row["kind"] == "category"]
    if not drawn:
        of += [(name,) for name in contexts]
        users = [row["name"] for row in rows if row["name"] == USER_ID]
        of += [(user, name) for user in users for name in contexts if _width(rows, name) <= WIDTH]
    made = []
    for parts in of:
        named = "_".join(map(_short, parts))
        if drawn:
            why = f"How often it was clicked until the day before: negatives are drawn, so a rate of {named} says how."
            made.append(_entry(f"{named}_clicks", why, {"kind": "statistic", "of": list(parts), "what": "clicks"}))
            continue
        for what in ("rate", "count"):
            why = {
                "rate": f"The click rate of {' and '.join(parts)} until the day before, smoothed.",
                "count": "Out of how many impressions.",
            }[what]
            made.append(_entry(f"{named}_{what}", why, {"kind": "statistic", "of": list(parts), "what": what}))
    return made


def _entry(name: str, why: str, row: dict[str, Any]) -> Entry:
    return Entry(CROSS, name, why[0].upper() + why[1:], {"name": name, "side": "cross"} | row)


def _width(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    return next(int(row["width"]) for row in rows if row["name"] == name)


def _short(name: str) -> str:
    return name.removesuffix("_id")
