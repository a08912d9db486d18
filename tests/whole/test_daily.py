"""Warm start day by day, and the search for a recipe."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model import daily, search
from model.bundle.reading import Bundle
from model.prepared.loader import Prepared
from model.training.recipe import load_recipe

RECIPE = "[network]\nmlp = [16]\n[training]\noptimiser = 'adam'\nbatch_size = 512\nevaluations = 1\n"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.mark.long
def test_every_day_is_scored_by_bundles_that_have_not_seen_it(
    small_data: Prepared, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    shutil.copytree(small_data.folder, log)
    table = log / "tables" / "impressions.parquet"
    days = daily.calendar(small_data)["day"]
    late = pl.col("timestamp") >= pl.lit(days.max()).cast(pl.Datetime("ms")).cast(pl.Int64) - 86_400_000
    renamed = pl.when(late & pl.col("item_id").str.ends_with("7")).then(pl.col("item_id") + "-new").otherwise("item_id")
    pl.read_parquet(table).with_columns(item_id=renamed).write_parquet(table)
    arguments = ["--data", str(log), "--network", "wdl", "--recipe", str(recipe), "--out", str(tmp_path)]
    assert daily.main([*arguments, "--first", "12"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["day"] for row in report["days"]] == [d.isoformat() for d in days.unique().sort().to_list()[12:]]
    of_day = dict(days.cast(pl.String).value_counts().iter_rows())
    assert [row["rows"] for row in report["days"]] == [of_day[row["day"]] for row in report["days"]]
    assert report["days"][0]["warm"] == report["days"][0]["frozen"], "on the first day they are one bundle"
    assert report["days"][-1]["warm"] != report["days"][-1]["frozen"]
    rows = [row["table_rows"] for row in report["days"]]
    assert rows == sorted(rows) and rows[-1] > rows[0], "ids of later days got rows"
    assert (tmp_path / "daily.png").stat().st_size > 10_000 and not list(tmp_path.glob(".days-*"))
    bundle = Bundle.open(tmp_path / "wdl_simulated")
    facts = json.loads((bundle.folder / "report.json").read_text())
    assert facts["warm"] is not None and facts["data"]["impressions"]["validation"] == 0
    trained_on = facts["data"]["impressions"]["train"]
    assert trained_on == report["days"][-2]["rows"], "it learnt from the one day before the last"


def test_what_a_bundle_does_not_know_is_unknown_to_it(small_data: Prepared, small_bundle: Bundle) -> None:
    rows = small_data.of_split("test")[:50]
    grown = Prepared(small_data.folder)
    items = np.array(grown.arrays["items"])
    place = small_data.schema.places("item")["item_id"].start
    items[grown.item[rows[0]], place] = small_data.rows["item_id"] + 7
    grown.arrays = grown.arrays | {"items": items}
    unknown = np.array(items)
    unknown[grown.item[rows[0]], place] = 1
    same = Prepared(small_data.folder)
    same.arrays = same.arrays | {"items": unknown}
    np.testing.assert_array_equal(daily.scored(small_bundle, grown, rows), daily.scored(small_bundle, same, rows))


def test_too_few_days_are_one_line(
    small_data: Prepared, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(small_data.folder), "--network", "bst", "--recipe", str(recipe), "--out", str(tmp_path)]
    assert daily.main([*arguments, "--first", "14"]) == 1
    assert "daily: --first 14; the log has 14 days, 3 to 13 are allowed" in capsys.readouterr().err


def test_a_search_starts_from_the_recipe_writes_a_better_one_and_goes_on_after_a_kill(
    small_data: Prepared, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space, out = tmp_path / "space.toml", tmp_path / "found.toml"
    space.write_text(
        "[training.learning_rate]\nlow = 0.0005\nhigh = 0.02\nlog = true\n"
        "[network.dropout]\nchoices = [0.0, 0.2]\n[network.blocks]\nlow = 1\nhigh = 2\n"
    )
    arguments = ["--data", str(small_data.folder), "--network", "bst", "--recipe", str(recipe), "--out", str(out)]
    assert search.main([*arguments, "--space", str(space), "--trials", "2"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert search.main([*arguments, "--space", str(space), "--trials", "3"]) == 0
    second = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (first["trials"], second["trials"]) == (2, 3) and second["validation"] >= first["validation"] > 0.5
    found = load_recipe([out], "bst")
    assert found.network["mlp"] == [16] and found.training.optimiser == "adam"
    assert found.training.learning_rate == pytest.approx(second["training.learning_rate"])
    assert set(tomllib.loads(out.read_text())["network"]) == {"mlp", "dropout", "blocks"}
