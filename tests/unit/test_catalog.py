"""Items that change: catalogue files that carry their own hash, made from tables, swapped under a running service."""

import gzip
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model import catalog as command
from model.bundle.layout import CATALOG, GOLDEN_CATALOG, OLDER, PREVIOUS_CATALOG, BundleError
from model.bundle.reading import Bundle
from model.cataloguing.building import build, difference, merged
from model.cataloguing.swap import undo
from model.cataloguing.tables import Items, read_items
from model.features.catalog import KIND, Catalog, CatalogError
from model.features.ids import keys
from model.features.schema import Schema, parse
from model.features.sealed import seal
from model.prepared.entities import PrepareError
from model.prepared.loader import Prepared
from service.models.installing.place import place
from service.scoring.catalog import CATALOGUE, Watch
from service.scoring.scorer import Scorer
from service.scoring.served import Live, Served
from service.settings import DEMO_BUNDLE
from tests.client import NOW, Service, get, post, serving
from tests.processes import wait_until

SCHEMA: dict[str, Any] = {
    "user_id": "str",
    "feature": [
        {"name": "item_id", "side": "item", "kind": "id", "sequence_width": 8},
        {"name": "category_id", "side": "item", "kind": "category", "width": 8},
        {"name": "price", "side": "item", "kind": "number", "transform": "log", "width": 4},
        {"name": "tags", "side": "item", "kind": "multi", "max_values": 2, "width": 4},
    ],
}
ROWS: list[dict[str, Any]] = [
    {"item_id": "007", "category_id": "c1", "price": 1.5, "tags": ["a", "b", "c"]},
    {"item_id": "i2", "category_id": None, "price": None, "tags": []},
    {"item_id": "i3", "category_id": "c2", "price": 3.0, "tags": None},
]
CHANGES = [  # of the demo bundle's items: one that is changed, one that is new
    {"item_id": "i5", "category_id": "c3", "shop_id": "s1", "tag": "t1"},
    {"item_id": "brand-new", "category_id": "c1", "shop_id": "s1", "tag": "t1"},
]


@pytest.fixture
def schema() -> Schema:
    return parse(SCHEMA)


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A copy of the demo bundle, whose catalogue may be changed."""
    return Path(shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle"))


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    frame = pl.DataFrame(rows, infer_schema_length=None)
    match path.suffix:
        case ".parquet":
            frame.write_parquet(path)
        case ".jsonl":
            frame.write_ndjson(path)
        case ".csv":
            lists = [name for name, dtype in frame.schema.items() if dtype == pl.List]
            for name in lists:
                text = [None if row[name] is None else json.dumps(row[name]) for row in rows]
                frame = frame.with_columns(pl.Series(name, text, pl.String))
            frame.write_csv(path)
    return path


def swap(bundle: Path, rows: list[dict[str, Any]], *more: str) -> int:
    """What the command does with a table of these rows; gives its exit status."""
    table = written(bundle.parent / "items.parquet", rows)
    return command.main(["--bundle", str(bundle), "--items", str(table), *more])


def columns_of(catalog: Catalog) -> dict[str, list[Any]]:
    order = np.sort(catalog.items())
    return {name: column.tolist() for name, column in catalog.columns(order)[0].items()} | {"key": order.tolist()}


# ---- the file


def test_a_catalogue_is_read_by_numpy_as_if_nothing_stood_behind_it(schema: Schema, tmp_path: Path) -> None:
    made = build(schema, pl.DataFrame(ROWS))
    made.save(tmp_path / "items.npy")
    assert Catalog.verify(tmp_path / "items.npy")
    array = np.load(tmp_path / "items.npy", mmap_mode="r")
    assert array.dtype.names == ("key", "category_id", "price", "tags")
    np.testing.assert_equal(columns_of(Catalog.open(tmp_path / "items.npy", schema)), columns_of(made))


def test_saving_over_a_file_leaves_those_who_read_it_what_they_had(schema: Schema, tmp_path: Path) -> None:
    path = tmp_path / "items.npy"
    build(schema, pl.DataFrame(ROWS)).save(path)
    reading = Catalog.open(path, schema)
    before = columns_of(reading)
    build(schema, pl.DataFrame(ROWS[:1])).save(path)
    np.testing.assert_equal(columns_of(reading), before)
    assert (len(reading), len(Catalog.open(path, schema))) == (3, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["items.npy"]


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_carries_no_hash(schema: Schema, tmp_path: Path, keep: float) -> None:
    path = tmp_path / "items.npy"
    build(schema, pl.DataFrame(ROWS)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    assert not Catalog.verify(path)


def test_any_changed_byte_is_found(schema: Schema, tmp_path: Path) -> None:
    path = tmp_path / "items.npy"
    build(schema, pl.DataFrame(ROWS)).save(path)
    content = path.read_bytes()
    for at in [*range(0, len(content), 7), len(content) - 1]:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert not sound(path)


def sound(path: Path) -> bool:
    try:
        return Catalog.verify(path)
    except CatalogError:
        return False


@pytest.mark.parametrize("content", [b"", b"no catalogue", b"PK\x03\x04", b"\x93NUMPY"])
def test_a_file_of_another_kind_is_refused_in_one_line(schema: Schema, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "items.npy").write_bytes(content)
    with pytest.raises(CatalogError, match="items.npy: [^\n]*$"):
        Catalog.open(tmp_path / "items.npy", schema)


def test_an_array_without_fields_is_refused(schema: Schema, tmp_path: Path) -> None:
    np.save(tmp_path / "items.npy", np.arange(8))
    with pytest.raises(CatalogError, match="items.npy"):
        Catalog.open(tmp_path / "items.npy", schema)


def test_the_same_fields_with_other_types_are_another_catalogue(schema: Schema, tmp_path: Path) -> None:
    """ "7" and 7 have different keys: nothing would be found, and nothing would say so."""
    path = tmp_path / "items.npy"
    build(schema, pl.DataFrame(ROWS)).save(path)
    features = [f | {"type": "int"} if f["name"] == "category_id" else f for f in SCHEMA["feature"]]
    with pytest.raises(CatalogError, match="another feature table"):
        Catalog.open(path, parse(SCHEMA | {"feature": features}))
    wider = [f | {"width": 99} if f["name"] == "category_id" else f for f in SCHEMA["feature"]]
    assert len(Catalog.open(path, parse(SCHEMA | {"feature": wider}))) == 3


# ---- the table


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_a_table_gives_the_same_catalogue_whatever_its_format(schema: Schema, tmp_path: Path, suffix: str) -> None:
    expected = build(schema, pl.DataFrame(ROWS))
    made = build(schema, read_items(written(tmp_path / f"items{suffix}", ROWS), schema).table)
    np.testing.assert_equal(columns_of(made), columns_of(expected))
    assert made.columns(keys(["007", "7"], "str"))[1].tolist() == [True, False]


def test_the_catalogue_of_a_data_sets_items_is_the_one_that_prepare_made(small_data: Prepared) -> None:
    table = read_items(small_data.folder / "tables" / "items.parquet", small_data.schema).table
    np.testing.assert_equal(columns_of(build(small_data.schema, table)), columns_of(small_data.catalog))


def test_merging_keeps_what_the_table_does_not_name(schema: Schema) -> None:
    older = build(schema, pl.DataFrame(ROWS))
    table = pl.DataFrame([ROWS[0] | {"price": 2.0}, ROWS[2] | {"item_id": "i9"}])
    newer = build(schema, table)
    both = merged(older, Items(table, {}), schema)
    expected = [ROWS[0] | {"price": 2.0}, ROWS[1], ROWS[2], ROWS[2] | {"item_id": "i9"}]
    np.testing.assert_equal(columns_of(both), columns_of(build(schema, pl.DataFrame(expected))))
    assert difference(older, both) == (4, 1, 1, 0)
    assert difference(older, newer) == (2, 1, 1, 2)
    assert difference(older, older) == (3, 0, 0, 0), "a missing number is as missing as before"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_table_is_read_packed_and_in_parts(schema: Schema, tmp_path: Path, suffix: str) -> None:
    parts = tmp_path / "items"
    parts.mkdir()
    (parts / "_SUCCESS").touch()
    for number, rows in enumerate((ROWS[:1], ROWS[1:])):
        plain = written(tmp_path / f"part-{number}{suffix}", rows)
        (parts / f"{plain.name}.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    made = build(schema, read_items(parts, schema).table)
    np.testing.assert_equal(columns_of(made), columns_of(build(schema, pl.DataFrame(ROWS))))


def test_types_that_hold_the_meaning_without_loss_are_taken(tmp_path: Path) -> None:
    """As databases and data frames write integers and numbers."""
    features = [SCHEMA["feature"][0] | {"type": "int"}, SCHEMA["feature"][1] | {"type": "int"}, *SCHEMA["feature"][2:]]
    schema = parse(SCHEMA | {"feature": features})
    plainly = {"item_id": [7, 8], "category_id": [21, None], "price": [1.5, None], "tags": [["a"], ["b"]]}
    others = pl.DataFrame(
        {
            "item_id": pl.Series([7.0, 8.0]),
            "category_id": pl.Series([21.0, float("nan")]),
            "price": pl.Series([Decimal("1.50"), None], dtype=pl.Decimal(10, 2)),
            "tags": [["a", None], [None, "b"]],
        }
    )
    np.testing.assert_equal(columns_of(build(schema, others)), columns_of(build(schema, pl.DataFrame(plainly))))


def test_merging_a_part_of_the_columns_keeps_the_others(schema: Schema) -> None:
    older = build(schema, pl.DataFrame(ROWS))
    table = pl.DataFrame({"item_id": ["007", "i9"], "price": [2.0, 9.0]})
    both = merged(older, Items(table, {}), schema)
    new = {"item_id": "i9", "category_id": None, "price": 9.0, "tags": None}
    expected = [ROWS[0] | {"price": 2.0}, ROWS[1], ROWS[2], new]
    np.testing.assert_equal(columns_of(both), columns_of(build(schema, pl.DataFrame(expected))))
    with pytest.raises(PrepareError, match=r"no column .* \(category_id, price, tags\); there are item_id, Price"):
        merged(older, Items(table.rename({"price": "Price"}), {}), schema)


def test_a_json_line_changes_the_keys_that_it_has(schema: Schema, tmp_path: Path) -> None:
    """null takes a value away, a key that is not there leaves it."""
    older = build(schema, pl.DataFrame(ROWS))
    lines = ['{"item_id": "007", "price": null}', "", '{"item_id": "i3", "tags": ["z", null], "category_id": "c9"}']
    (tmp_path / "items.jsonl").write_text("\n".join(lines) + "\n")
    both = merged(older, read_items(tmp_path / "items.jsonl", schema), schema)
    expected = [ROWS[0] | {"price": None}, ROWS[1], ROWS[2] | {"tags": ["z"], "category_id": "c9"}]
    np.testing.assert_equal(columns_of(both), columns_of(build(schema, pl.DataFrame(expected))))


def test_a_catalogue_that_would_lose_more_than_a_tenth_asks_first(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (demo / CATALOG).read_bytes()
    assert swap(demo, CHANGES) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "leaves out 999 of the catalogue's 1000 items" in said and "--merge" in said and "--shrink" in said
    assert (demo / CATALOG).read_bytes() == before and not (demo / PREVIOUS_CATALOG).exists()
    assert swap(demo, CHANGES, "--shrink") == 0
    assert len(Bundle.open(demo).catalog) == 2


def test_a_change_can_be_taken_back_and_the_bundle_stays_whole(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def undo() -> int:
        return command.main(["--bundle", str(demo), "--undo"])

    assert undo() == 1
    assert "nothing to go back to" in capsys.readouterr().err
    first = (demo / CATALOG).read_bytes()
    assert swap(demo, CHANGES, "--merge") == 0
    second = (demo / CATALOG).read_bytes()
    assert swap(demo, CHANGES, "--merge") == 0, "nothing changes, and what is kept is still the one before"
    modified = (demo / CATALOG).stat().st_mtime_ns
    for catalogue, kept in ((first, second), (second, first)):
        assert undo() == 0
        assert (demo / CATALOG).read_bytes() == catalogue and (demo / PREVIOUS_CATALOG).read_bytes() == kept
        assert (demo / CATALOG).stat().st_mtime_ns > modified, "a service that watches sees a newer file"
        Bundle.open(demo).verify()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["added"] == 1
    (demo / PREVIOUS_CATALOG).write_bytes(first[:1000])
    assert undo() == 1 and (demo / CATALOG).read_bytes() == second
    assert sorted(path.name for path in (demo / "catalog").iterdir()) == [
        "items.npy",
        "previous.npy",
        "statistics.npy",
    ]


def test_catalogues_that_were_in_place_stay_by_their_sha256_and_go_no_further(demo: Path, tmp_path: Path) -> None:
    """A log is scored again with them; whoever installs the bundle elsewhere has no use for them."""
    in_place = []
    for at in range(4):
        sealed = seal(demo / CATALOG, KIND)
        assert sealed is not None
        in_place.append(f"items-{sealed.sha256[:16]}.npy")
        assert swap(demo, [CHANGES[0] | {"shop_id": f"s{at + 1}"}], "--merge", "--keep", "2") == 0
    older = demo / OLDER
    assert sorted(path.name for path in older.iterdir()) == sorted(in_place[-3:-1]), "and the last one is `previous`"
    Bundle.open(demo).verify()
    with tarfile.open(tmp_path / "bundle.tar", "w") as archive:
        archive.add(demo, "bundle")
    for source in (demo, tmp_path / "bundle.tar"):
        placed = place(str(source), tmp_path / f"home-{source.suffix[1:]}")
        Bundle.open(placed.folder).verify()
    assert not (tmp_path / "home-" / placed.version / OLDER).exists(), "a folder's are left behind"
    assert swap(demo, CHANGES[:1], "--merge", "--keep", "0") == 0 and not older.exists()
    Bundle.open(demo).verify()


def test_the_command_tells_people_and_scripts_what_changed(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert swap(demo, CHANGES, "--merge") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith("1001 items: 1 new, 1 changed, 0 gone")
    assert lines[-2] == f"the catalogue before is kept: python -m model.catalog --bundle {demo} --undo"
    path = str(demo.resolve() / CATALOG)
    assert json.loads(lines[-1]) == {"catalog": path, "items": 1001, "added": 1, "changed": 1, "removed": 0}

    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "current").symlink_to(demo)
    told = [row | {"title": "a shoe"} for row in CHANGES]
    assert swap(tmp_path / "home", told, "--shrink") == 0, "a folder with `current`; the table is the whole catalogue"
    said = capsys.readouterr()
    assert "passed over, no item features of this bundle: title" in said.err
    assert json.loads(said.out.splitlines()[-1])["removed"] == 999


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"item_id": "i1", "shop_id": "s1", "tag": "t"}], "no column 'category_id' .*there are item_id, shop_id, tag"),
        ([{"category_id": "c1", "shop_id": "s1", "tag": "t"}], "no column 'item_id'"),
        ([CHANGES[0], CHANGES[1], CHANGES[0]], "item_id 'i5' stands twice"),
        ([CHANGES[0] | {"category_id": 1.5}], "column category_id: 1.5 given, a string is allowed"),
        ([CHANGES[0] | {"category_id": ["c1"]}], "column category_id: .*given, a string is allowed"),
        ([CHANGES[0] | {"item_id": 1.5}], "item_id is Float64, integers or strings are allowed"),
        ([CHANGES[0], CHANGES[1] | {"item_id": None}], "row 2 has no item_id"),
    ],
    ids=["feature", "id", "twice", "fraction", "list", "fractional id", "null id"],
)
def test_a_wrong_table_is_one_clear_line_and_changes_nothing(
    demo: Path, capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], says: str
) -> None:
    before = (demo / CATALOG).read_bytes()
    assert swap(demo, rows) == 1
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    assert said.err.startswith("catalog: ")
    assert re.search(says, said.err), said.err
    assert (demo / CATALOG).read_bytes() == before


@pytest.mark.parametrize("name", ["items.csv", "items.jsonl", "items.parquet", "items.txt", "nothing.csv"])
def test_a_table_that_cannot_be_read_is_one_clear_line(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if not name.startswith("nothing"):
        (tmp_path / name).write_bytes(b"\x00{]")
    assert command.main(["--bundle", str(demo), "--items", str(tmp_path / name)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_text_that_is_no_list_is_named_by_its_column(schema: Schema, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text('item_id,category_id,price,tags\ni1,c1,1,"[1"\n')
    with pytest.raises(PrepareError, match=r"""column tags: '\[1' given, a JSON list is allowed: \["a", "b"\]"""):
        read_items(tmp_path / "items.csv", schema)


def test_delimited_text_is_split_as_prepare_splits_it_and_a_short_line_is_no_missing_value(
    schema: Schema, tmp_path: Path
) -> None:
    file = tmp_path / "items.csv"
    file.write_text("item_id; price\r\n007;1.5\r\n\r\ni2;\r\n", "utf-8-sig")
    assert read_items(file, schema).table.to_dicts() == [
        {"item_id": "007", "price": "1.5"},
        {"item_id": "i2", "price": None},
    ]
    for line, says in (("i1", "line 3: 1 fields given, 2 are"), ("i1,1,2", "line 3: 3 fields"), ('"i1,1', "cannot be")):
        file.write_text(f"item_id,price\ni0,1\n{line}\n")
        with pytest.raises(PrepareError, match=says):
            read_items(file, schema)
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"item_id,price\n" * 999)[:-9])
    with pytest.raises(PrepareError, match="cut.csv.gz cannot be read"):
        read_items(tmp_path / "cut.csv.gz", schema)


# ---- the bundle


def test_a_bundle_with_another_catalogue_is_whole_and_answers_as_recorded(demo: Path) -> None:
    assert swap(demo, CHANGES[1:], "--shrink") == 0  # not one item that the golden requests name is left
    bundle = Bundle.open(demo)
    bundle.verify()
    bundle.replay_golden(bundle.session())
    assert len(bundle.catalog) == 1


def test_a_swap_under_way_does_not_make_a_bundle_unfit(demo: Path) -> None:
    (demo / "catalog" / ".items.npy-4711.npy").write_bytes(b"half")
    Bundle.open(demo).verify()


def test_a_catalogue_that_is_neither_the_manifests_nor_hashed_is_refused(demo: Path) -> None:
    array = np.load(demo / CATALOG).copy()
    array["shop_id"] += np.uint64(1)
    np.save(demo / CATALOG, array)
    with pytest.raises(BundleError, match="items.npy: sha256 .*manifest.json says .* none stands at its own end"):
        Bundle.open(demo).verify()


def test_a_broken_catalogue_is_replaced_but_not_merged_with(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (demo / CATALOG).write_bytes((demo / CATALOG).read_bytes()[:1000])
    assert swap(demo, CHANGES, "--merge") == 1
    assert swap(demo, CHANGES) == 0
    assert "replaces a catalogue that is broken" in capsys.readouterr().err
    Bundle.open(demo).verify()


def test_a_bundle_made_before_gets_what_its_golden_requests_need(demo: Path) -> None:
    (demo / GOLDEN_CATALOG).unlink()
    manifest = json.loads((demo / "manifest.json").read_text())
    del manifest["files"][GOLDEN_CATALOG]
    (demo / "manifest.json").write_text(json.dumps(manifest))
    Bundle.open(demo).verify()

    assert swap(demo, CHANGES[1:], "--shrink") == 0

    bundle = Bundle.open(demo)
    bundle.verify()
    bundle.replay_golden(bundle.session())
    assert GOLDEN_CATALOG in bundle.manifest["files"]


# ---- the watch


def test_the_watch_takes_over_what_is_new_once_and_refuses_what_is_broken_once(
    demo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int | None] = []
    bundle = Bundle.open(demo)
    live = Live(Served.open(bundle, Scorer(1), "fp32"), 100)
    watch = Watch(live, 0, [(CATALOGUE, lambda catalog: seen.append(None if catalog is None else len(catalog)))])

    def look(times: int = 3) -> list[int | None]:
        seen.clear()
        for _ in range(times):
            watch.look()
        return list(seen)

    assert look() == [], "what the bundle was opened with is not new"
    swap(demo, CHANGES, "--merge")
    assert look() == [1001]
    assert len(live.current.catalog) == len(live.current.bundle.catalog) == 1001
    good = (demo / CATALOG).read_bytes()
    for broken in (good[:-1], good[:1000], b"", good[:5000] + b"?" + good[5001:]):
        put(demo, broken)
        assert look() == [None]
        assert caplog.text.count("catalogue refused") == 1
        caplog.clear()
    (demo / CATALOG).unlink()
    assert look() == [None]
    put(demo, good)
    assert look() == [1001]
    undo(demo)
    assert look() == [1000]


def put(bundle: Path, content: bytes) -> None:
    """Some program's own swap."""
    (bundle / "beside").write_bytes(content)
    os.replace(bundle / "beside", bundle / CATALOG)


# ---- the running service


def rank(service: Service, *candidates: str) -> tuple[dict[str, float], int]:
    """Score of each candidate, and how many have no embedding."""
    found = post(f"{service.url}/rank", {"user_id": "u1", "candidates": candidates, "timestamp": NOW})
    return {item["item_id"]: item["score"] for item in found["items"]}, found["unknown_items"]


def counted(service: Service, sample: str) -> float:
    lines = get(f"{service.url}/metrics").splitlines()
    of_sample = [line for line in lines if line.startswith((f"{sample} ", f"{sample}{{"))]
    assert of_sample
    return sum(float(line.rpartition(" ")[2]) for line in of_sample)


def test_new_items_and_changed_features_reach_a_running_service_and_broken_files_do_not(demo: Path) -> None:
    workers = 2
    settings = {"bundle": str(demo), "workers": str(workers), "catalog_poll_s": "0.05", "history_timeout_ms": "5000"}

    def reloads(service: Service, outcome: str) -> float:
        return counted(service, f'ranker_catalog_reloads_total{{outcome="{outcome}"}}')

    def everywhere(service: Service) -> dict[str, float]:
        answers = [rank(service, "i5", "i6", "brand-new", "nobody") for _ in range(20)]  # whichever worker answers
        assert all(answer == answers[0] for answer in answers)
        return answers[0][0]

    with serving(**settings) as service:
        service.all_answer(workers)
        processes = service.children.pids()
        before, unknown = rank(service, "i5", "i6", "brand-new", "nobody")
        assert before["brand-new"] == before["nobody"] and unknown == 2
        assert counted(service, "ranker_catalog_items") == 1000

        assert swap(demo, CHANGES, "--merge") == 0
        wait_until(lambda: reloads(service, "ok") == workers, service)

        after = everywhere(service)
        assert after["brand-new"] != after["nobody"] == before["nobody"], "scored by its features"
        assert after["i5"] != before["i5"] and after["i6"] == before["i6"]
        counts = counted(service, "ranker_unknown_items_total")
        assert rank(service, "brand-new", "i6")[1] == 1, "it still has no embedding"
        assert counted(service, "ranker_unknown_items_total") == counts + 1
        assert counted(service, "ranker_catalog_items") == 1001
        told = json.loads(get(f"{service.url}/model"))["catalog"]
        assert told["items"] == 1001 and told["modified_at"] == (demo / CATALOG).stat().st_mtime_ns // 1_000_000

        good = (demo / CATALOG).read_bytes()
        for number, broken in enumerate(spoilt(good, demo), 1):
            put(demo, broken)
            wait_until(lambda number=number: reloads(service, "refused") == number * workers, service)  # type: ignore[misc]
            assert everywhere(service) == after
        assert service.output.count("catalogue refused") == number, "once for all workers"
        assert service.children.pids() == processes and "Traceback" not in service.output

        put(demo, good)
        wait_until(lambda: reloads(service, "ok") == 2 * workers, service)
        service.process.terminate()
        service.ended()
        assert "Traceback" not in service.output

    with serving(**settings) as service:
        assert everywhere(service) == after


def spoilt(good: bytes, demo: Path) -> Iterator[bytes]:
    """A file cut off, one with a byte changed, and a sound one for another feature table."""
    yield good[: len(good) // 2]
    yield good[:-3000] + bytes([good[-3000] ^ 1]) + good[-2999:]
    build(parse(SCHEMA), pl.DataFrame(ROWS)).save(demo / "beside")
    yield (demo / "beside").read_bytes()


def test_a_service_told_not_to_look_goes_on_with_what_it_has(demo: Path) -> None:
    with serving(bundle=str(demo), catalog_poll_s="0") as service:
        before = rank(service, "brand-new")
        assert swap(demo, CHANGES, "--merge") == 0
        assert json.loads(get(f"{service.url}/model"))["catalog"]["items"] == 1000
        assert rank(service, "brand-new") == before
