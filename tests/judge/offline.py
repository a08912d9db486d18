"""The evening of the judge: what the commands make of the journals, by their last lines."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl

from model import prepare as preparing
from model.datasets import simulated
from model.datasets.tables import Options
from model.demo import IMPRESSIONS, SEED
from model.training.recipe import RECIPES
from tests.judge.ledger import Place
from tests.processes import finished


def world() -> simulated.World:
    """That of the demo bundle."""
    return simulated.make_world(SEED, IMPRESSIONS // simulated.IMPRESSIONS_AN_ITEM)


def base(folder: Path) -> Path:
    """A prepared data set that has the demo's items, and none of the judge's users."""
    raw, out = folder / "raw", folder / "base"
    raw.mkdir()
    users = {"user_id": ["u0"], "age": ["18-24"], "gender": ["f"], "city": ["city0"], "os": ["ios"]}
    items = simulated.items_of(world())
    shown = [(items["item_id"][at], simulated.START_MS + at * 86_400_000, at % 2, "taste", 1, 1) for at in range(8)]
    columns = ["item_id", "timestamp", "label", "match_type", "position", "page"]
    impressions = pl.DataFrame(shown, columns, orient="row").with_columns(user_id=pl.lit("u0"))
    clicked = impressions.filter(label=1).with_columns(action=pl.lit("click"), object_type=pl.lit("item"))
    behaviours = clicked.select("user_id", "action", "object_type", pl.col("item_id").alias("object_id"), "timestamp")
    tables = {"users": pl.DataFrame(users), "items": items, "impressions": impressions, "behaviours": behaviours}
    for name, frame in tables.items():
        frame.write_parquet(raw / f"{name}.parquet")
    shutil.copy(RECIPES / "demo_features.toml", raw / "features.toml")
    preparing.prepare("parquet", raw, out, Options())
    return out


def draining(journal: Path, out: Path) -> list[object]:
    """The command that drains what is closed."""
    return ["-m", "service.drain", "--journal", journal, "--out", out]


def prepare(log: Path, base: Path, out: Path) -> Any:
    """What was counted."""
    return command("model.prepare", "--dataset", "service_log", "--raw", log, "--base", base, "--out", out)["log"]


def replay(log: Path, home: Path) -> Any:
    """The proof, whether it holds or not."""
    done = finished("-m", "model.replay", "--log", log, "--bundle", home)
    try:
        return json.loads(done.stdout.splitlines()[-1]) | {"exit_code": done.returncode, "told": done.stdout[-1500:]}
    except (IndexError, json.JSONDecodeError):
        raise AssertionError(f"model.replay: {done.stderr[-800:]}") from None


def command(*arguments: object) -> Any:
    """The JSON that a command ends with."""
    done = finished("-m", *arguments)
    assert done.returncode == 0, f"python -m {arguments[0]}: {done.stderr[-800:]}"
    return json.loads(done.stdout.splitlines()[-1])


def rows(data: Path) -> tuple[set[Place], set[Place]]:
    """What the prepared tables have as shown, and as clicked."""
    frame = pl.read_parquet(data / "tables" / "impressions.parquet")
    assert not frame.select("request_id", "user_id", "item_id").is_duplicated().any(), "an impression stands twice"
    shown, clicked = (
        {Place(*row) for row in some.select("request_id", "user_id", "item_id").iter_rows()}
        for some in (frame, frame.filter(label=1))
    )
    return shown, clicked


def shown(log: Path) -> set[Place]:
    """Items that drained impressions hold."""
    frame = pl.read_parquet(log / "impressions" / "**" / "*.parquet", hive_partitioning=False).explode("items")
    ids = frame.select("request_id", "user_id", pl.col("items").struct.field("item_id"))
    return {Place(*row) for row in ids.iter_rows()}


def merging(bundle: Path, every: int, file: Path) -> list[object]:
    """The command that gives every so many-th item another category, shop and tag, in a bundle that serves."""
    items = simulated.items_of(world())
    others = items.select(pl.exclude("item_id").shift(1).fill_null(strategy="backward"))
    items.select("item_id").hstack(others).gather_every(every).write_parquet(file)
    return ["-m", "model.catalog", "--bundle", bundle, "--items", file, "--merge"]
