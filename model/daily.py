"""Warm start day by day: does a network that goes on learning beat one that stays as it was? Reported by the day.

    python -m model.daily --data data/kuairand --network bst --out daily

The first days train a network as `model.train` does. From then on every evening

    the day's impressions are encoded with the vocabulary grown: new ids get rows, old rows stay (model.prepare --grow)
    the newest bundle's weights go on learning on that day alone, one epoch (model.train --warm)
    the new bundle is exported, and scores the next day, which it has not seen

beside the first bundle, which is never trained again and for which new ids are unknown. The data set's days are those
of its time zone; the split that it was prepared with is not used. Nothing is selected: each day's figure is of rows
that come after everything that was learnt or tuned.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from tqdm import tqdm

from model import command, networks
from model.bundle.reading import Bundle
from model.datasets.tables import DataSet, Options
from model.evaluation.measure import at_once
from model.evaluation.metrics import auc
from model.features.ids import UNKNOWN
from model.files import write_json
from model.prepared.encode import encode_tables
from model.prepared.entities import PrepareError
from model.prepared.loader import Prepared, batches
from model.prepared.splits import SPLITS
from model.training.choosing.choice import choose
from model.training.recipe import Recipe

FEWEST = 3  # days before the first one that is scored: train, validation


def calendar(data: Prepared) -> pl.DataFrame:
    """The log's impressions with the `day` of each."""
    frame = pl.read_parquet(data.folder / "tables" / "impressions.parquet")
    local = pl.from_epoch("timestamp", "ms").dt.replace_time_zone("UTC").dt.convert_time_zone(data.meta["time_zone"])
    return frame.drop("split", strict=False).with_columns(day=local.dt.date())


def encoded(data: Prepared, days: pl.DataFrame, split: pl.Expr, folder: Path, older: Bundle | None) -> Prepared:
    """The impressions that `split` gives a split (null: none), encoded in `folder` after the older bundle."""
    tables = folder / "tables"
    tables.mkdir(parents=True)
    chosen = days.with_columns(split=split.cast(pl.Int8)).filter(pl.col("split").is_not_null()).drop("day")
    chosen.write_parquet(tables / "impressions.parquet")
    known = pl.scan_parquet(data.folder / "tables" / "behaviours.parquet")
    known.filter(pl.col("timestamp") < chosen["timestamp"].max()).sink_parquet(tables / "behaviours.parquet")
    for name in ("users", "items"):
        (tables / f"{name}.parquet").symlink_to((data.folder / "tables" / f"{name}.parquet").resolve())
    drawn = data.meta.get("drawn_negatives", False)
    log = DataSet(data.meta["dataset"], data.meta["time_zone"], drawn_negatives=drawn)
    encode_tables(folder, data.schema, log, older.encoder if older else None, Options(delay_s=data.delay_s))
    return Prepared(folder)


def scored(bundle: Bundle, data: Prepared, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bundle's scores of impressions (n,); rows by which the encoding has grown since are UNKNOWN to it."""
    session, scores = bundle.session(), []
    data = data.seen_by(bundle.schema)
    for _, inputs in batches(data, rows, at_once(data)):
        for name, limit in bundle.limits.items():
            if name in inputs:
                inputs[name] = np.where(inputs[name] < limit, inputs[name], UNKNOWN)
        scores.append(bundle.score(session, inputs)[:, 0])
    return np.concatenate(scores)


def day_by_day(data: Prepared, network: str, recipe: Recipe, first: int, seed: int, out: Path) -> list[dict[str, Any]]:
    """Figures of every day after the first `first` ones. Raises what prepare and train raise."""
    from model.graph.publish import publish  # torch takes seconds to import: not for --help
    from model.training.run import Run

    if data.meta["split"] == "of the table":
        raise PrepareError(
            f"{data.folder} is not split by days; daily is for logs that are: {data.meta['dataset']} is not"
        )
    days = calendar(data)
    names = days["day"].unique().sort().to_list()
    if not FEWEST <= first < len(names):
        raise PrepareError(f"--first {first}; the log has {len(names)} days, {FEWEST} to {len(names) - 1} are allowed")
    day, report = pl.col("day"), []
    update = replace(recipe.training, epochs=1, evaluations=0, refit=False)
    start: Bundle | None = None
    newest: Bundle | None = None
    with TemporaryDirectory(dir=out, prefix=".days-") as scratch, tqdm(total=len(names) - first, unit="day") as bar:
        for number in range(first, len(names)):
            tonight, tomorrow = names[number - 1], names[number]
            train, validation, test = range(len(SPLITS))
            split = pl.when(day == tomorrow).then(test)
            if newest is None:
                parts = split.when(day == tonight).then(validation).when(day < tonight).then(train)
            else:
                parts = split.when(day == tonight).then(train)
            folder = Path(scratch) / str(tomorrow)
            today = encoded(data, days, parts, folder, newest)
            how = recipe if newest is None else replace(recipe, training=update)
            run = Run(today, network, how, seed, Path(scratch) / "checkpoint.pt", warm=newest)
            run.fit()
            newest = Bundle.open(publish(run, out, boosting=False).bundle)
            start = start or newest
            rows = today.of_split("test")
            label = today.label[rows]
            report.append(
                {
                    "day": tomorrow.isoformat(),
                    "rows": len(rows),
                    "warm": auc(label, scored(newest, today, rows)),
                    "frozen": auc(label, scored(start, today, rows)),
                    "table_rows": sum(newest.encoder.statistics.rows.values()),
                }
            )
            shutil.rmtree(folder)
            bar.set_postfix_str(f"{tomorrow}: warm {report[-1]['warm']:.4f}, frozen {report[-1]['frozen']:.4f}")
            bar.update()
    return report


def plot(report: Sequence[dict[str, Any]], path: Path) -> None:
    """AUC by day, both ways, as a PNG."""
    from matplotlib.figure import Figure  # slow to import, and only here

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for way, label in (("warm", "goes on learning"), ("frozen", "as it was")):
        axes.plot([row["day"] for row in report], [row[way] for row in report], marker="o", label=label)
    axes.set(ylabel="AUC of the day, unseen", title="Warm start, day by day")
    axes.tick_params(axis="x", rotation=45)
    axes.legend()
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.daily", description="Warm start, reported day by day.")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set of several days")
    parser.add_argument("--network", required=True, choices=networks.names())
    parser.add_argument("--out", type=Path, required=True, help="folder for bundles, daily.json and daily.png")
    parser.add_argument("--first", type=int, default=7, help="days of the first bundle; the last of them picks")
    parser.add_argument("--recipe", metavar="NAME_OR_PATH", help="as model.train's")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    try:
        data = Prepared(arguments.data)
        choice = choose(arguments.network, data, arguments.recipe)
        print("\n".join(choice.lines()))
        arguments.out.mkdir(parents=True, exist_ok=True)
        report = day_by_day(data, arguments.network, choice.recipe, arguments.first, arguments.seed, arguments.out)
    except (OSError, ValueError) as error:
        print(f"daily: {command.words(error)}", file=sys.stderr)
        return 1
    print(f"{'day':12}{'rows':>9}{'warm':>9}{'frozen':>9}{'table rows':>12}")
    for row in report:
        shown = "".join(f"{'-' if row[way] is None else format(row[way], '.4f'):>9}" for way in ("warm", "frozen"))
        print(f"{row['day']:12}{row['rows']:>9}{shown}{row['table_rows']:>12}")
    plot(report, arguments.out / "daily.png")
    whole = {"network": arguments.network, "dataset": data.meta["dataset"], "seed": arguments.seed}
    whole |= {"recipe_from": choice.recipe_from, "days": report}
    write_json(arguments.out / "daily.json", whole)
    print(json.dumps(whole))
    return 0


if __name__ == "__main__":
    command.run(main, "daily", "the bundles of the days that are done are kept; a report needs all days anew")
