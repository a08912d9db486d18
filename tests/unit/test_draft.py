"""A drafted features.toml: what it takes a column for, what it leaves out and why, and that a log trains so."""

import json
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from model import networks, prepare
from model.datasets.own.derived import derived
from model.datasets.own.judging import Entry
from model.features import schema as features_toml
from model.features.kinds import Feature
from model.features.schema import Schema
from model.prepared.loader import Prepared

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
FORMS = ("parquet", "csv", "jsonl")
Rows = list[dict[str, Any]]


def impression(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `log` under the names that the tables have."""
    return {"user_id": row["user"], "item_id": row["item"], "timestamp": row["at"], "label": row["label"]}


def log(users: int, items: int, rows: int, groups: int, seed: int = 0) -> Rows:
    """Impressions over ten days, in order: each user takes to one group of items, `item % groups`."""
    draw = random.Random(seed)
    taste = [draw.randrange(groups) for _ in range(users)]
    shown = []
    for second in sorted(draw.sample(range(10 * 86_400), rows)):
        user, item = draw.randrange(users), draw.randrange(items)
        label = int(draw.random() < (0.7 if item % groups == taste[user] else 0.05))
        shown.append({"user": user, "item": item, "at": FIRST + timedelta(seconds=second), "label": label})
    return shown


def write(folder: Path, form: str, **tables: Rows | pl.DataFrame) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in tables.items():
        frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(rows, infer_schema_length=None)
        if form == "parquet":
            frame.write_parquet(folder / f"{name}.parquet")
        elif form == "csv":
            texts = [pl.col(c) for c, kind in frame.schema.items() if not isinstance(kind, pl.List)]
            lists = [c for c, kind in frame.schema.items() if isinstance(kind, pl.List)]
            as_json = [
                pl.Series(c, [None if v is None else json.dumps(v) for v in frame[c].to_list()], pl.String)
                for c in lists
            ]
            frame.select(texts).with_columns(as_json).write_csv(folder / f"{name}.csv")
        else:
            lines = [json.dumps(row, default=lambda value: value.isoformat()) for row in frame.to_dicts()]
            (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def drafted(raw: Path, *more: str) -> tuple[Schema, str]:
    assert prepare.main(["--dataset", "parquet", "--raw", str(raw), "--draft", *more]) == 0
    path = raw / "features.toml"
    return features_toml.load(path), path.read_text()


def by_name(schema: Schema) -> Mapping[str, Feature]:
    return {feature.name: feature for feature in schema.features}


def kinds(schema: Schema, *names: str) -> Sequence[tuple[str, str]]:
    """Kind and, of a number, transform, else type."""
    there = by_name(schema)
    return [(there[n].kind, getattr(there[n], "transform", None) or there[n].type) for n in names]


def left_out(text: str) -> Mapping[str, str]:
    """Name → the first line of the reason."""
    lines = [line.removeprefix("#   ").partition(": ") for line in text.splitlines() if line.startswith("#   ")]
    return {name: reason for name, colon, reason in lines if colon}


def assert_trains(raw: Path, out: Path, *more: str) -> None:
    """Prepares by the draft, and asks every network whether it can be built from it."""
    assert prepare.main(["--dataset", "parquet", "--raw", str(raw), "--out", str(out), *more]) == 0
    data = Prepared(out)
    for network in networks.names():
        if network == "bpr" and "user_id" not in by_name(data.schema):  # it is made of the user's id
            continue
        networks.build(network, data.schema, data.rows)
    assert len(data.batch(data.of_split("train")[:3])["item"]) == 3


@pytest.mark.parametrize("form", FORMS)
def test_music(form: str, tmp_path: Path) -> None:
    draw, genres = random.Random(1), ["rock", "jazz", "folk", "soul", "metal"]
    shown = log(60, 100, 3_000, 5)
    raw = write(
        tmp_path / "raw",
        form,
        impressions=[
            {
                "user_id": row["user"],
                "item_id": f"track{row['item']}",
                "timestamp": row["at"].isoformat(),
                "label": bool(row["label"]),
                "request": f"{n:x}-{draw.randrange(10**9)}",
                "slot": draw.randint(1, 8),
                "device": draw.choice(["phone", "web", "phone", None]),
                "shuffled": draw.random() < 0.4,
                "listened_ms": draw.randint(30_000, 200_000) if row["label"] else draw.randint(0, 2000),
                "played_to_end": int(row["label"] and draw.random() < 0.6),
                "saved": int(draw.random() < 0.5),
                "wish": draw.sample(genres, draw.randint(0, 2)),
            }
            for n, row in enumerate(shown)
        ],
        behaviours=[
            {
                "user_id": row["user"],
                "action": "play" if row["label"] else "skip",
                "object_type": "track",
                "object_id": f"track{row['item']}",
                "timestamp": (row["at"] + timedelta(seconds=9)).isoformat(),
            }
            for row in shown
        ]
        + [
            {"user_id": n % 60, "action": "follow", "object_type": "artist", "object_id": f"a{n % 7}", "timestamp": at}
            for n, at in enumerate([row["at"].isoformat() for row in shown[:150]])
        ],
        items=[
            {
                "item_id": f"track{n}",
                "title": f"Song {n}",
                "genre": genres[n % 5],
                "artist": f"artist {n % 30}",
                "bpm": draw.randint(60, 190),
                "loudness": round(-draw.random() * 30, 2),
                "plays": int(draw.paretovariate(0.8) * 100),
                "moods": draw.sample(["calm", "sad", "loud", "glad"], draw.randint(1, 3)),
                "vector": [round(draw.random(), 3) for _ in range(4)],
                "released": (date(2000, 1, 1) + timedelta(draw.randrange(9000))).isoformat(),
                "cover": f"https://img.example.org/{n}.jpg",
                "licence": "standard",
                "isrc": None,
            }
            for n in range(100)
        ],
        users=[
            {
                "user_id": n,
                "mail": f"user{n}@example.org",
                "full_name": f"Name {n % 40}",
                "phone": f"+49 170 555{n:04d}",
                "age": draw.randint(14, 80),
                "zip": f"{draw.randrange(20):05d}",
            }
            for n in range(60)
        ],
    )
    schema, text = drafted(raw)
    assert (schema.user_id, schema.item_id.type) == ("int", "str")
    assert (schema.history.object_type, schema.history.actions) == ("track", ("play",))
    assert kinds(
        schema, "genre", "bpm", "loudness", "plays", "moods", "age", "zip", "slot", "device", "shuffled", "wish"
    ) == [
        ("category", "str"),
        ("number", "standard"),
        ("number", "standard"),
        ("number", "log"),
        ("multi", "str"),
        ("number", "standard"),
        ("category", "str"),
        ("category", "int"),
        ("category", "str"),
        ("category", "int"),
        ("multi", "str"),
    ]
    there = by_name(schema)
    assert (there["slot"].default, there["device"].default, there["wish"].default) == (1, "phone", ())
    assert there["genre"].sequence_width and not there["artist"].sequence_width
    assert there["moods"].max_values == 3  # type: ignore[attr-defined]
    assert "user_id" in there
    reasons = left_out(text)
    for name, why in {
        "request": "nearly every row",
        "listened_ms": "alone it tells the label",
        "played_to_end": "that nothing else has",
        "saved": "by its name",
        "title": "nearly every row",
        "vector": "embedding",
        "released": "a time",
        "cover": "addresses of pages",
        "licence": "the same value",
        "isrc": "no value",
        "mail": "e-mail",
        "full_name": "personal",
        "phone": "phone numbers",
    }.items():
        assert why in reasons[name], name
        assert name not in there
    assert '# object_type = "artist"' in text and "skip (says what was not wanted)" in text
    assert_trains(raw, tmp_path / "data")


@pytest.mark.parametrize("form", FORMS)
def test_groceries_without_behaviours_and_ids_with_leading_zeros(form: str, tmp_path: Path) -> None:
    draw = random.Random(2)
    shown = log(40, 60, 2_000, 4, seed=2)
    raw = write(
        tmp_path / "raw",
        form,
        impressions=[
            {
                "user_id": f"{row['user']:06d}",
                "item_id": 4_000_000_000_000 + row["item"],
                "timestamp": int(row["at"].timestamp() * 1000),
                "label": row["label"],
                "store": draw.randint(1, 20),
                "basket": round(draw.lognormvariate(3, 1), 2),
                "promotion": "Y" if draw.random() < 0.3 else None,
                "paid": 5.0 if row["label"] and draw.random() < 0.5 else None,
                "session": f"{row['user']}-{row['at']:%d}",
                "aisle": row["item"] % 4 + 1,
            }
            for row in shown
        ],
        items=[
            {
                "item_id": 4_000_000_000_000 + n,
                "aisle": n % 4 + 1,
                "department": n % 4 // 2,
                "brand_id": float(n % 9) if n % 3 else None,  # as pandas writes whole numbers with gaps
                "price": round(draw.lognormvariate(1, 1), 2),
                "ean": f"0{400_000 + n}",
            }
            for n in range(60)
        ],
        users=[
            {"user_id": f"{n:06d}", "card": 9_000_000_000 + draw.randrange(10**9), "joined": 20_200_101 + n % 28}
            for n in range(40)
        ],
    )
    schema, text = drafted(raw)
    assert (schema.user_id, schema.item_id.type) == ("str", "int")
    assert schema.history.object_type == "item" and schema.history.actions == ("click",)
    assert kinds(schema, "store", "basket", "promotion", "aisle", "brand_id", "price") == [
        ("category", "int"),
        ("number", "log"),
        ("category", "str"),
        ("category", "int"),
        ("category", "int"),
        ("number", "log"),
    ]
    there = by_name(schema)
    assert there["aisle"].side == "item" and there["aisle"].sequence_width
    assert not there["department"].sequence_width, "it follows from the aisle"
    reasons = left_out(text)
    assert "that nothing else has" in reasons["paid"] or "the same value" in reasons["paid"]
    assert "do not come back" in reasons["session"]
    assert "stands in items" in reasons["aisle"]
    assert {"ean", "card", "joined"} <= set(reasons)
    assert_trains(raw, tmp_path / "data", "--behaviours-from", "impressions")


def test_news_come_and_go_so_the_sequence_leans_on_the_section(tmp_path: Path) -> None:
    draw = random.Random(3)
    shown = log(50, 40, 2_000, 4, seed=3)
    for row in shown:  # forty new articles a day
        row["item"] += 40 * (row["at"] - FIRST).days
    raw = write(
        tmp_path / "raw",
        "parquet",
        impressions=[
            {
                **impression(row),
                "day": row["at"].day,
            }
            for row in shown
        ],
        behaviours=[
            {
                "user_id": row["user"],
                "action": "Read",
                "object_type": "Article",
                "object_id": row["item"],
                "timestamp": row["at"],
            }
            for row in shown
            if row["label"]
        ],
        items=[
            {"item_id": n, "section": f"section {n % 4}", "type": draw.choice("ab"), "text": "so " * 30 + str(n)}
            for n in range(400)
        ],
    )
    schema, text = drafted(raw)
    there = by_name(schema)
    assert (schema.history.object_type, schema.history.actions) == ("Article", ("Read",))
    assert there["section"].sequence_width > there["item_id"].sequence_width
    assert "items come and go" in text and "do not come back" in left_out(text)["day"]
    assert "type" in there, "a name that torch has for itself"
    assert_trains(raw, tmp_path / "data")


def test_hotels_whose_visitors_never_return(tmp_path: Path) -> None:
    shown = log(2_500, 30, 3_000, 3, seed=4)
    raw = write(
        tmp_path / "raw",
        "parquet",
        impressions=[
            {
                "user_id": f"v{row['user']}",
                "item_id": row["item"],
                "timestamp": row["at"],
                "label": float(row["label"]),
                "room": {"beds": 2},
                "visit": f"v{row['user']}-{row['at'].day}",
                "past_bookings": row["user"] % 4,
            }
            for row in shown
        ],
        behaviours=[
            {
                "user_id": f"v{row['user']}",
                "action": "book",
                "object_type": "hotel",
                "object_id": row["item"],
                "timestamp": row["at"],
            }
            for row in shown
            if row["label"]
        ],
        items=[{"item_id": n, "city": f"c{n % 3}", "stars": [1.0, 2.0, 3.0, 4.0, None][n % 5]} for n in range(30)],
    )
    schema, text = drafted(raw)
    assert "user_id" not in by_name(schema) and "too few come back" in text
    assert kinds(schema, "past_bookings", "stars") == [("category", "int"), ("category", "int")]
    assert {"room", "visit"} <= set(left_out(text))
    assert_trains(raw, tmp_path / "data")


def test_two_tables_alone(tmp_path: Path) -> None:
    shown = log(30, 20, 600, 2, seed=5)
    rows = [{"user_id": row["user"], "item_id": row["item"], "timestamp": row["at"]} for row in shown]
    raw = write(
        tmp_path / "raw",
        "csv",
        impressions=[row | {"label": 1} for row in rows],
        behaviours=[
            {
                "user_id": r["user_id"],
                "action": "buy",
                "object_type": "sku",
                "object_id": r["item_id"],
                "timestamp": r["timestamp"],
            }
            for r in rows
        ],
    )
    schema, _ = drafted(raw)
    assert [feature.name for feature in schema.features if not feature.derived] == ["user_id", "item_id"]
    # Users come back to few of the items; negatives are drawn, so that a rate would say how.
    assert [(f.name, f.of) for f in schema.matches] == [
        (f"same_item_{what}", ("item_id",)) for what in ("count", "age", "last", "share")
    ]
    assert [(f.name, f.what) for f in schema.statistics] == [("item_clicks", "clicks")]
    assert_trains(raw, tmp_path / "data", "--negatives", "1")


def test_what_goes_with_what_is_proposed_of_categories_where_negatives_are_drawn() -> None:
    rows: list[dict[str, Any]] = [
        {"name": "item_id", "side": "item", "kind": "id", "sequence_width": 32},
        {"name": "shop_id", "side": "item", "kind": "category", "sequence_width": 16},
        {"name": "colour", "side": "item", "kind": "category", "width": 4},
    ]
    proposed = {
        drawn: [
            (entry.name, entry.row["of"], entry.row["length"])
            for entry in derived([Entry("items", row["name"], "", row) for row in rows], drawn, repeated=True)
            if entry.row and entry.row["what"] == "cooccurrence"
        ]
        for drawn in (True, False)
    }
    assert proposed == {
        True: [("shop_goes_with", ["shop_id"], 10), ("shop_goes_with_newest", ["shop_id"], 2)],
        False: [],
    }


def test_an_export_of_postgres_has_t_and_f_and_telephone_numbers_without_spaces(tmp_path: Path) -> None:
    shown = [
        {"user_id": r["user"], "item_id": r["item"], "timestamp": r["at"], "label": "ft"[r["label"]]}
        for r in log(30, 20, 600, 2, seed=6)
    ]
    raw = write(
        tmp_path / "raw",
        "csv",
        impressions=shown,
        items=[{"item_id": n, "explicit": "ft"[n % 3 > 0]} for n in range(20)],
        users=[{"user_id": n, "contact": f"+4917055512{n:02d}", "phone": 4_917_055_512_300.0 + n} for n in range(30)],
    )
    schema, text = drafted(raw)
    assert kinds(schema, "explicit") == [("category", "int")]
    reasons = left_out(text)
    assert "phone numbers" in reasons["contact"] and "personal" in reasons["phone"]
    assert_trains(raw, tmp_path / "data", "--behaviours-from", "impressions")
    labels = pl.read_parquet(tmp_path / "data" / "tables" / "impressions.parquet")["label"]
    assert labels.to_list() == [int(row["label"] == "t") for row in shown]


def test_rows_at_which_prepare_will_stop_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = log(30, 20, 600, 2, seed=7)
    times = [{"user_id": row["user"], "timestamp": row["at"]} for row in shown]
    raw = write(
        tmp_path / "raw",
        "parquet",
        impressions=[time | {"item_id": r["item"], "label": r["label"]} for time, r in zip(times, shown, strict=True)],
        behaviours=[
            time | {"action": "search" if gap else "click", "object_type": "item", "object_id": None if gap else 1.0}
            for time, gap in zip(times, [True, True, *[False] * 598], strict=True)
        ],
    )
    drafted(raw)
    said = capsys.readouterr().out
    assert "behaviours: prepare will stop at 2 of 600 rows (2 without a readable object_id): --skip-bad 2 " in said
    assert "impressions: prepare will stop" not in said
    arguments = ["--dataset", "parquet", "--raw", str(raw), "--out", str(tmp_path / "data")]
    assert prepare.main(arguments) == 1
    assert capsys.readouterr().err.endswith("; --skip-bad N passes over N malformed rows\n")
    assert prepare.main([*arguments, "--skip-bad", "2"]) == 0

    ratings = [time | {"item_id": r["item"], "label": r["item"] % 5 + 1} for time, r in zip(times, shown, strict=True)]
    rated = write(tmp_path / "rated", "parquet", impressions=ratings)
    drafted(rated)
    said = capsys.readouterr().out
    assert "without a label of 0 or 1" in said and "--negatives" not in said


def test_the_next_command_and_the_last_line_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = log(10, 10, 100, 2)
    raw = write(
        tmp_path / "raw",
        "csv",
        impressions=[{"uid": r["user"], "item_id": r["item"], "timestamp": r["at"], "label": 1} for r in shown],
    )
    drafted(raw, "--map", "impressions.uid=user_id")
    said = capsys.readouterr().out
    assert (
        f"--raw {raw} --map impressions.uid=user_id --behaviours-from impressions --negatives 1 --out data/raw" in said
    )
    assert json.loads(said.splitlines()[-1]) == {"features": str(raw / "features.toml")}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert prepare.main(["--dataset", "parquet", "--draft", *arguments]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1, said.err
    return said.err


def test_a_draft_takes_nothing_from_a_person_and_says_what_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [{"user_id": 1, "item_id": 2, "ts": FIRST, "clicked": 1}]
    raw = write(tmp_path / "raw", "parquet", impressions=shown)
    said = refusal(capsys, "--raw", str(raw))
    assert "no column timestamp, label" in said and "--map impressions.ts=timestamp" in said
    assert not (raw / "features.toml").exists() and not list(raw.glob(".*"))
    (raw / "features.toml").write_text("mine")
    assert "is there already; --features FILE" in refusal(capsys, "--raw", str(raw))
    assert (raw / "features.toml").read_text() == "mine"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty} holds no impressions; impressions.parquet, .csv" in refusal(capsys, "--raw", str(empty))
    acts = write(tmp_path / "acts", "csv", impressions=shown, behaviours=shown)
    said = refusal(capsys, "--raw", str(acts), "--behaviours-from", "impressions")
    assert "holds behaviours.csv; one source" in said, "as prepare would refuse it"
    none = write(tmp_path / "none", "parquet", impressions=pl.DataFrame(shown).clear())
    assert refusal(capsys, "--raw", str(none))


def test_a_column_of_item_ids_in_lists_is_no_feature(tmp_path: Path) -> None:
    shown = log(20, 20, 400, 2, seed=6)
    raw = write(
        tmp_path / "raw",
        "parquet",
        impressions=[
            {
                **impression(r),
                "seen": [1, 2, r["item"]],
            }
            for r in shown
        ],
    )
    _, text = drafted(raw)
    assert "lists of item ids" in left_out(text)["seen"]
