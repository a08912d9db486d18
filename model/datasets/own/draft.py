"""A first features.toml for tables that nobody has described yet: `python -m model.prepare … --draft`.

Each choice is made from what the tables hold (profile.py) and written with its reason, for a person who knows the log
to go through. Names decide only where values cannot: whether whole numbers count something, and whether a column of
impressions is known before the click.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from model.datasets.own.derived import derived
from model.datasets.own.drafttext import summary, text, toml_lines
from model.datasets.own.judging import RANKS, Entry, Log, judged, min_count, width
from model.datasets.own.profile import Column, auc, columns, comes_back, look, moment, truth
from model.datasets.own.sources import listed, near, opened, refuse_missing
from model.datasets.tables import ITEM, TABLES, DataError, Options
from model.engine import engine, first_line, literal
from model.features.ids import IdType
from model.features.kinds import ITEM_ID, USER_ID

KEYS = {  # of each table: no features, or, the two ids, features of their own
    "impressions": ("user_id", "item_id", "timestamp", "label", "split", "watch_ms", "true_probability", "request_id"),
    "behaviours": ("user_id", "action", "object_type", "object_id", "timestamp"),
    "items": ("item_id",),
    "users": ("user_id",),
}
NEEDED = {
    "impressions": ("user_id", "item_id", "timestamp", "label"),
    "behaviours": ("user_id", "action", "object_type", "object_id", "timestamp"),
    "items": ("item_id",),
    "users": ("user_id",),
}

MARKED = {  # where a table's rows lie once _mark has been there, and as what
    "impressions": (
        "seen_impressions",
        {"user_id": "_user", "item_id": "_item", "timestamp": "_at", "label": "_label"},
    ),
    "behaviours": (
        "done",
        {"user_id": "_user", "action": "_action", "object_type": "_type", "object_id": "_object", "timestamp": "_at"},
    ),
}

TELLS = 0.95  # the AUC from which a column knows the label: how long a video was played tells its click by .978
HINTS = 0.75  # … if it is also called as such columns are
GIVES_AWAY = 0.2  # of all clicks, those that a value gives away which nothing else has
STAYS = 0.3  # of the newest rows, those whose value is an old one; below, a vocabulary knows none when it serves
LONGEST, SHORTEST = 50, 10  # of a history
ONCE = 0.98  # of all behaviours, those on an item that the user had not acted on: from here on nobody comes back
RETURNS = 0.8  # of the newest rows, those with an item that was shown before; below, items come and go

AFTERWARDS = set(  # what is known of an impression only once it was clicked, or was not
    "clicked click clicks dwell watch watched watchtime listened purchased purchase bought ordered converted conversion"
    " conversions revenue gmv completed completion finished skipped liked shared saved rated reward outcome applied"
    " booked booking engagement engaged bounced bounce replied hired played opened viewed added checkout cart feedback"
    " response spent scroll result success accepted declined refunded paid follow like comment forward share save"
    " favorite favourite collect hate dislike skip buy subscribe install retweet reply finish".split()
)
DURING = set("play view watch read listen seconds secs ms time progress percent pct depth long completion".split())
BEFORE = set(  # … unless it is of earlier times
    "past prev previous last before avg mean hist history historical lifetime total since ctr cvr recent ago per"
    " days 7d 30d 1d 14d 90d d prior earlier first user item user's".split()
)
SHOWN = set("impression impressions exposure expose exposed show shown display displayed served".split())
AGAINST = set(
    "skip skipped dislike disliked hide hidden report block blocked unlike unfollow remove removed delete deleted"
    " return returned refund cancel cancelled canceled dismiss dismissed downvote reject rejected"
    " unsubscribe uninstall".split()
)


@dataclass(frozen=True)
class Draft:
    text: str  # of features.toml
    summary: tuple[str, ...]
    needs: tuple[str, ...] = ()  # options without which prepare would refuse these tables


def drafted(con: duckdb.DuckDBPyConnection, tables: Iterable[str], behaviours_from: str = "tables") -> Draft:
    """What features.toml could be for the views `raw_<table>` of `con`. Raises DataError."""
    log = Log(con)
    for table in (name for name in TABLES if name in set(tables)):
        log.rows[table] = look(con, table)
        log.tables[table] = columns(con, table)
        _require(table, log.tables[table])
    if not log.rows.get("impressions"):
        raise DataError("the log holds no impressions: nothing to draft a feature table from")
    _mark(log)
    needs = []
    of_clicks = "behaviours" not in log.tables or behaviours_from == "impressions"
    if of_clicks:
        needs.append("--behaviours-from impressions")
        con.execute(
            "CREATE OR REPLACE TEMP TABLE done AS SELECT _user, _item AS _object, 'click' AS _action, 'item' AS"
            " _type, _at FROM seen_impressions WHERE coalesce(_label, 1) = 1"
        )
    positives, negatives, unlabelled = log.one(
        "SELECT count(*) FILTER (_label = 1), count(*) FILTER (_label = 0), count(*) FILTER (_label IS NULL)"
        " FROM seen_impressions"
    )
    if not negatives and not unlabelled:
        needs.append("--negatives 1")
    history, groups, notes = _history(log, of_clicks)
    user_type, item_type = _id_types(log, history["object_type"])
    entries = [*_users(log, user_type), *_items(log, item_type), *_context(log, bool(positives and negatives))]
    entries += derived(entries, drawn="--negatives 1" in needs, repeated=_repeated(log))
    told = (*summary(log, history, entries, notes), *_malformed(log, of_clicks))
    return Draft(text(log, history, groups, user_type, entries, notes), told, tuple(needs))


def _require(table: str, there: Mapping[str, Column]) -> None:
    lacking = [name for name in NEEDED[table] if name not in there]
    if lacking:
        meant = near(lacking[0], list(there)) or "NAME"
        raise DataError(
            f"{table} have no column {', '.join(lacking)}; there are {listed(list(there))}:"
            f" --map {table}.{meant}={lacking[0]} says which of them it is"
        )


def _mark(log: Log) -> None:
    """Adds to the impressions and behaviours looked at what all questions need: ids as text, time, label, newness."""
    shown = log.tables["impressions"]
    label = truth(shown["label"])
    log.con.execute(
        f"CREATE OR REPLACE TEMP TABLE seen_impressions AS SELECT *, {log.id('impressions', 'user_id')} AS _user,"
        f" {log.id('impressions', 'item_id')} AS _item, {moment(shown['timestamp'])} AS _at, {label} AS _label"
        " FROM seen_impressions"
    )
    log.con.execute(
        "CREATE OR REPLACE TEMP TABLE seen_impressions AS SELECT *, coalesce(_at > (SELECT quantile_cont(_at, .9) FROM"
        " seen_impressions), false) AS _late FROM seen_impressions"
    )
    if "behaviours" in log.tables:
        log.con.execute(
            f"CREATE OR REPLACE TEMP TABLE done AS SELECT {log.id('behaviours', 'user_id')} AS _user,"
            f" {log.id('behaviours', 'object_id')} AS _object, CAST(action AS VARCHAR) AS _action,"
            f" CAST(object_type AS VARCHAR) AS _type, {moment(log.tables['behaviours']['timestamp'])} AS _at"
            " FROM seen_behaviours"
        )


def _malformed(log: Log, derived: bool) -> list[str]:
    """A line for each table with rows at which prepare will stop, as nothing stands where it needs a value."""
    lines = []
    for table in (name for name in log.tables if not (derived and name == "behaviours")):
        seen, values = MARKED.get(table) or (f"seen_{table}", {name: log.id(table, name) for name in NEEDED[table]})
        holes = [f"{value} IS NULL" for value in values.values()]
        each = ", ".join(f"count(*) FILTER ({hole})" for hole in holes)
        rows, bad, *counts = log.one(f"SELECT count(*), count(*) FILTER ({' OR '.join(holes)}), {each} FROM {seen}")
        if bad:
            said = {name: "label of 0 or 1" if name == "label" else f"readable {name}" for name in values}
            which = ", ".join(
                f"{count:,} without a {said[name]}" for name, count in zip(values, counts, strict=True) if count
            )
            remedy = f"--skip-bad {bad} passes over them" if bad < rows else "mend them first"
            lines.append(f"{table}: prepare will stop at {bad:,} of {rows:,} rows ({which}): {remedy}")
    return lines


# ---- history


def _history(log: Log, derived: bool) -> tuple[dict[str, Any], list[str], list[str]]:
    """`[history]`, lines of commented `[[group]]`s, and what there is to say of both."""
    con, notes = log.con, []
    known = "SELECT _item AS id FROM seen_impressions" + (
        f" UNION ALL SELECT {log.id('items', 'item_id')} FROM raw_items" if "items" in log.tables else ""
    )
    con.execute(f"CREATE OR REPLACE TEMP TABLE known AS SELECT DISTINCT id FROM ({known})")
    types = con.execute(
        "SELECT _type, count(*) AS n, avg(CASE WHEN _object IN (SELECT id FROM known) THEN 1 ELSE 0 END) AS items"
        " FROM done WHERE _type IS NOT NULL GROUP BY _type ORDER BY items < .5, n DESC, _type"
    ).fetchall()
    if not types:
        notes.append("There are no behaviours: every history would be empty.")
        con.execute("CREATE OR REPLACE TEMP TABLE chosen AS SELECT * FROM done WHERE false")
        return {"length": 20, "actions": ["click"], "object_type": ITEM}, [], notes
    chosen, _, matching = types[0]
    if derived:
        notes.append(
            "Every clicked impression is a behaviour (--behaviours-from impressions): action click, object item."
        )
    elif matching < 0.5:
        notes.append(
            f"Of the objects of type {chosen!r} only {matching:.0%} are among the items: histories of ids that no"
            " candidate has tell little. Are both ids written alike?"
        )
    else:
        notes.append(f"object_type: {matching:.0%} of the objects of type {chosen!r} are among the items.")
    of_type = f"_type = {literal(chosen)}"
    actions = con.execute(
        f"SELECT _action, count(*) FROM done WHERE {of_type} AND _action IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
    ).fetchall()
    counted = ", ".join(f"{name} {count:,}" for name, count in actions)
    shown_too = dict(
        con.execute(
            "WITH unclicked AS (SELECT _user, _item, _at FROM seen_impressions WHERE _label = 0 USING SAMPLE 20000 ROWS"
            " (reservoir, 1)) SELECT _action, count(DISTINCT (u._user, u._item, u._at)) / (SELECT count(*) FROM"
            f" unclicked) FROM unclicked u JOIN done d ON d._user = u._user AND d._object = u._item WHERE {of_type}"
            " AND abs(d._at - u._at) < 60000 GROUP BY _action"
        ).fetchall()
    )
    chosen_ones = sum(count for name, count in actions if shown_too.get(name, 0) <= 0.5)
    kept, out = [], []
    for name, count in actions:
        words = _tokens(name)
        if words & AGAINST:
            out.append(f"{name} (says what was not wanted)")
        elif words & SHOWN or (shown_too.get(name, 0) > 0.5 and chosen_ones > 0.1 * count):
            out.append(f"{name} (what was shown, not what was chosen)")
        else:
            kept.append(name)
    if not kept:
        kept, out = [name for name, _ in actions], []
    notes.append(f"actions in the log: {counted}." + (f" Left out: {', '.join(out)}." if out else ""))
    if len(kept) > 1:
        notes.append("All of them enter one history; of the networks atrank alone tells actions apart.")
    named = ", ".join(map(literal, kept))
    con.execute(f"CREATE OR REPLACE TEMP TABLE chosen AS SELECT * FROM done WHERE {of_type} AND _action IN ({named})")
    half, most = log.one(
        "SELECT quantile_disc(n, .5), quantile_disc(n, .9) FROM (SELECT count(*) AS n FROM chosen GROUP BY _user)"
    )
    length = max(SHORTEST, min(LONGEST, -(-int(most) // 5) * 5))
    notes.append(
        f"length: half of the users have at most {half} behaviours, nine tenths at most {most}"
        + (f"; more than {LONGEST} cost time and rarely tell more." if most > LONGEST else ".")
    )
    groups = []
    for name, count, _matching in types[1:]:
        groups += _group(log, name, count)
    return {"length": length, "actions": kept, "object_type": chosen}, groups, notes


def _repeated(log: Log) -> bool:
    """Whether users act on items again."""
    (share,) = log.one("SELECT count(DISTINCT (_user, _object)) / nullif(count(*), 0) FROM chosen")
    return share is not None and share < ONCE


def _group(log: Log, name: str, count: int) -> list[str]:
    """A `[[group]]` for another type of object, as a comment: of the networks only atrank reads groups."""
    actions = [
        row[0]
        for row in log.con.execute(
            f"SELECT _action FROM done WHERE _type = {literal(name)} GROUP BY 1 ORDER BY count(*) DESC, 1"
        ).fetchall()
    ]
    distinct, numbers, most = log.one(
        "SELECT count(DISTINCT _object), bool_and(regexp_full_match(_object, '-?(0|[1-9]\\d{0,17})')),"
        " (SELECT quantile_disc(n, .9) FROM (SELECT count(*) AS n FROM done"
        f" WHERE _type = {literal(name)} GROUP BY _user)) FROM done WHERE _type = {literal(name)}"
    )
    row = {
        "object_type": name,
        "actions": actions,
        "length": max(5, min(LONGEST, int(most))),
        "type": "int" if numbers else "str",
        "min_count": min_count(distinct),
        "width": width(distinct),
    }
    lines = [
        f"# {count:,} behaviours are on objects of type {name!r} ({distinct:,} of them), which are no items. The"
        " network atrank reads them:"
    ]
    return [*lines, "#", *(f"# {line}" for line in ("[[group]]", *toml_lines(row))), ""]


def _id_types(log: Log, object_type: str) -> tuple[IdType, IdType]:
    """Of users' and items' ids: int where all tables have whole numbers."""
    users = [log.tables[table]["user_id"] for table in log.tables if table != "items"]
    items = [log.tables[table]["item_id"] for table in ("impressions", "items") if table in log.tables]
    objects: Sequence[Any] = log.one(
        "SELECT bool_and(regexp_full_match(_object, '-?(0|[1-9]\\d{0,17})')) FROM done"
        f" WHERE _type = {literal(object_type)}"
    )
    user = all(_whole(column) for column in users)
    item = all(_whole(column) for column in items) and objects[0] is not False
    return ("int" if user else "str"), ("int" if item else "str")


def _whole(column: Column) -> bool:
    """Whether all its values are integers of 64 bits; 007 is a text, which an integer would not give back."""
    number = column.sort == "int" or column.sort == "float" and column.whole
    return number and -(2**63) + 2 <= (column.low or 0) and (column.high or 0) < 2**63


# ---- features


def _users(log: Log, user_type: IdType) -> list[Entry]:
    per_user, back = log.one(
        "SELECT count(*) / count(DISTINCT _user), (SELECT avg(CASE WHEN _user IN (SELECT _user FROM seen_impressions"
        " WHERE NOT _late) THEN 1 ELSE 0 END) FROM seen_impressions WHERE _late) FROM seen_impressions"
    )
    back = 1.0 if back is None else back
    shares = f"{per_user:.1f} impressions per user; {back:.0%} of the newest tenth are of users seen before"
    row = {"name": USER_ID, "side": "user", "kind": "id", "type": user_type, "min_count": 3, "width": 16}
    if per_user >= 3 and back >= STAYS:
        entry = Entry("users", USER_ID, f"{shares}, so who it is tells much. Rarer ones are one unknown user.", row)
    else:
        entry = Entry("users", USER_ID, f"{shares}: too few come back for an id to be learnt.")
    return [entry, *_of_table(log, "users")]


def _items(log: Log, item_type: IdType) -> list[Entry]:
    rows, per_item, back = log.one(
        "SELECT count(*), count(*) / count(DISTINCT _item), (SELECT avg(CASE WHEN _item IN (SELECT _item FROM"
        " seen_impressions WHERE NOT _late) THEN 1 ELSE 0 END) FROM seen_impressions WHERE _late) FROM seen_impressions"
    )
    back = 1.0 if back is None else back
    per_item *= log.rows["impressions"] / rows  # of users of whom all rows were looked at, of items not
    entries = _of_table(log, "items")
    tastes = _tastes(log, entries)
    brief = back < RETURNS or per_item < 10
    whole = 48 if log.rows["impressions"] >= 100_000 else 32
    of_item, *others = _widths(whole, len(tastes), brief)
    why = f"{per_item:.0f} impressions per item; {back:.0%} of the newest tenth show items that were shown before" + (
        ": items come and go, so the sequence leans on what is known of new ones." if brief else "."
    )
    if not tastes:
        why += " No column of the items can stand beside it in the sequence: a new item is an unknown one."
    why += f" The sequence's widths are {whole} together; with BST's 16 for the position 8 heads divide them."
    row = {"name": ITEM_ID, "side": "item", "kind": "id", "type": item_type, "min_count": 3 if rows >= 10_000 else 2}
    made = [Entry("items", ITEM_ID, why, row | {"sequence_width": of_item})]
    for entry in entries:
        if entry.name in tastes and entry.row is not None:
            said, width = tastes[entry.name], others[list(tastes).index(entry.name)]
            entry = replace(entry, row={**entry.row, "sequence_width": width}, why=f"{entry.why} {said}")
        made.append(entry)
    return made


def _widths(whole: int, categories: int, brief: bool) -> list[int]:
    """Of item_id and its categories in the sequence: multiples of 8."""
    if not categories:
        return [whole]
    of_item = 8 if brief else {48: 32, 32: 16}[whole] if categories == 1 else 16
    rest = whole - of_item
    second = 8 * (rest // 8 // 3 or 1)
    return [of_item, rest] if categories == 1 else [of_item, rest - second, second]


def _tastes(log: Log, entries: Sequence[Entry]) -> dict[str, str]:
    """The one or two columns of items, best first, that tell most of what a user chooses next, with the reason."""
    scores: dict[str, tuple[float, str]] = {}
    for entry in entries:
        if entry.row is None or entry.row["kind"] not in ("category", "multi"):
            continue
        column = log.tables["items"][entry.name]
        if column.missing > 0.5 or column.distinct < 2:
            continue
        v = column.expression if entry.row["kind"] == "category" else f"unnest({column.expression})"
        same, users, chance = log.one(
            f"WITH of_item AS (SELECT {log.id('items', 'item_id')} AS i, {v} AS v FROM seen_items),"
            " x AS (SELECT _user AS u, i, v, count(*) AS n FROM chosen JOIN of_item ON _object = i WHERE v IS NOT NULL"
            " GROUP BY ALL),"
            " whole AS (SELECT i, v, sum(n) AS n FROM x GROUP BY ALL),"
            " per_user AS (SELECT a.u, s, t, m FROM (SELECT u, sum(p) AS s FROM (SELECT u, sum(n)**2 - sum(n**2) AS p"
            " FROM x GROUP BY u, v) GROUP BY u) a JOIN (SELECT u, sum(n)**2 - sum(n**2) AS t, sum(n) AS m FROM"
            " (SELECT u, i, sum(n) AS n FROM x GROUP BY u, i) GROUP BY u) b ON a.u = b.u WHERE t > 0)"
            " SELECT (SELECT sum(least(s / t, 1) * m) / sum(m) FROM per_user), (SELECT count(*) FROM per_user),"
            " (SELECT sum(p) FROM (SELECT sum(n)**2 - sum(n**2) AS p FROM whole GROUP BY v)) / (SELECT"
            " nullif(sum(n)**2 - sum(n**2), 0) FROM (SELECT sum(n) AS n FROM whole GROUP BY i))"
        )
        same, chance = float(same or 0), float(chance or 0)
        surely = same - chance > 2 * math.sqrt(chance * (1 - chance) / max(1, users))
        score = same * math.log(same / chance) if surely and chance > 0 else 0.0  # in nats: how much surer it makes
        said = (
            f"Two choices of one user share it in {same:.0%} of the cases, by chance in {chance:.0%}: in the sequence"
            " it carries taste over to new items."
            if score > 0
            else "In the sequence it stands for items that are new."
        )
        scores[entry.name] = (score, said)
    ranked = sorted(scores, key=lambda name: (-scores[name][0], -_moderate(log, name), name))
    best = ranked[:1]
    for name in ranked[1:]:
        if len(best) < 2 and scores[name][0] > max(0.02, scores[best[0]][0] / 2) and not _nested(log, best[0], name):
            best.append(name)
    return {name: scores[name][1] for name in best}


def _nested(log: Log, name: str, other: str) -> bool:
    """Whether one column follows from the other, as a department from its aisle: together they tell no more."""
    a, b = (log.tables["items"][column] for column in (name, other))
    if "list" in (a.sort, b.sort):
        return False
    (both,) = log.one(f"SELECT count(DISTINCT ({a.expression}, {b.expression})) FROM seen_items")
    return bool(both <= 1.02 * max(a.distinct, b.distinct))


def _moderate(log: Log, name: str) -> int:
    """Of columns that tell nothing: the finest that still has several items to a value."""
    column = log.tables["items"][name]
    distinct = column.distinct if column.sort != "list" and column.missing < 0.2 else 0
    return distinct if distinct * 3 <= max(log.rows["items"], 6) else -distinct


def _context(log: Log, measurable: bool) -> list[Entry]:
    taken = {name: table for table in ("users", "items") for name in log.tables.get(table, {})}
    entries = []
    for name, column in log.tables["impressions"].items():
        if name in KEYS["impressions"]:
            continue
        if name in taken:
            entries.append(Entry("impressions", name, f"stands in {taken[name]} too, and is taken from there"))
            continue
        entry = judged(log, column)
        row, words = entry.row, column.tokens
        if row is None:
            entries.append(entry)
            continue
        area, given = auc(log.con, column) if measurable else (0.5, 0.0)
        if area >= TELLS:
            entry = Entry(
                "impressions", name, f"alone it tells the label (AUC {area:.3f}): known only after the click?"
            )
        elif given >= GIVES_AWAY:
            why = f"{given:.0%} of the clicks have a value here that nothing else has: known only after the click?"
            entry = Entry("impressions", name, why)
        elif (words & AFTERWARDS and not words & BEFORE) or (words & DURING and area >= HINTS):
            entry = Entry("impressions", name, f"by its name it is known only after the click (AUC alone {area:.3f})")
        elif column.distinct > 2 and row["kind"] == "category":
            back = comes_back(log.con, column)
            if back < STAYS:
                why = f"its values do not come back: {back:.0%} of the newest tenth's stood in an earlier row"
                entry = Entry("impressions", name, why)
        entries.append(_with_default(entry, column))
    return entries


def _with_default(entry: Entry, column: Column) -> Entry:
    """A context feature with its neutral value."""
    if entry.row is None:
        return entry
    row = dict(entry.row)
    if row["kind"] == "number":
        middle = column.quantiles[1] if column.quantiles else 0.0
        row["default"], what = (int(middle) if middle == int(middle) else middle), "the median"
    elif row["kind"] == "multi":
        row["default"], what = [], "no value"
    elif column.integers and column.tokens & RANKS:
        row["default"], what = int(column.low or 0), "the first place"
    else:
        common = column.common
        row["default"], what = (int(common) if row["type"] == "int" else str(common)), "the most frequent"
    return replace(entry, row=row, why=f"{entry.why} Where a request names none: {what}.")


def _of_table(log: Log, table: str) -> list[Entry]:
    if table not in log.tables:
        return []
    others = {name for other in ("users",) if other != table for name in log.tables.get(other, {})}
    entries = []
    for name, column in log.tables[table].items():
        if name in KEYS[table]:
            continue
        if name in others:
            why = f"users have a column of this name too; --map {table}.{name}={table[:-1]}_{name} tells them apart"
            entries.append(Entry(table, name, why))
            continue
        entries.append(judged(log, column))
    return entries


def _tokens(text: str) -> set[str]:
    return set(Column("", text, "", "text", 0, 0, 0).tokens)


def draft(raw: Path, path: Path, options: Options) -> Draft:
    """Writes the drafted features.toml of the tables in `raw` to `path`.

    Raises DataError, also where there is a file already: what a person wrote there is not lost.
    """
    if path.exists():
        raise DataError(f"{path} is there already; --features FILE names another place for the draft")
    if not path.resolve().parent.is_dir():
        raise DataError(f"{path}: there is no folder {path.parent}")
    with engine(path.resolve().parent, options.memory_gib) as con:
        try:
            sources = opened(con, raw, options.map)
            refuse_missing(raw, sources, ("impressions",), options.behaviours_from == "impressions")
            made = drafted(con, sources, options.behaviours_from)
        except duckdb.Error as error:
            raise DataError(f"{raw} cannot be read: {first_line(error)}") from None
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(made.text)
    except FileExistsError:
        raise DataError(f"{path} is there already; --features FILE names another place for the draft") from None
    return made
