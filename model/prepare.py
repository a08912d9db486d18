"""Raw log → prepared data set: canonical tables, splits, vocabularies, catalogue and the training form.

    python -m model.prepare --dataset simulated --impressions 1000000 --seed 1 --out data/simulated
    python -m model.prepare --dataset kuairand --raw KuaiRand-Pure/data --out data/kuairand
    python -m model.prepare --dataset service_log --raw log --base data/kuairand --out data/today

Everything fitted (vocabularies, statistics) is fitted on the training split alone: an item first seen on the test day
is unknown. The folder is written beside and renamed into place, so that a killed run leaves none that looks whole.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from model import command, datasets, spark
from model.datasets.own.draft import draft
from model.datasets.tables import MalformedLine, Options
from model.features import schema as features_toml
from model.features.encode import Encoder
from model.features.schema import Schema
from model.files import replacing
from model.options import OptionError, seconds
from model.prepared import summary
from model.prepared.encode import encode_tables
from model.prepared.entities import PrepareError


def prepare(
    dataset: str,
    raw: Path | str | None,
    out: Path,
    options: Options,
    features: Path | None = None,
    grow: Path | None = None,
) -> dict[str, Any]:
    """Writes the prepared data set `out` and returns its meta.json. Raises PrepareError, SchemaError, MalformedLine.

    `grow` is a bundle or a prepared data set whose encoding goes on: its rows stay, new ids get rows after them.
    """
    if out.exists() and (any(out.iterdir()) if out.is_dir() else True) and not (out / "meta.json").exists():
        raise PrepareError(f"--out {out} holds something that is no prepared data set; name an empty or a new folder")
    if options.engine == "spark":
        spark.require(options.master, out.resolve())  # before the log is read, which takes its time
    table = features or datasets.features(dataset, raw, options.base)
    schema = features_toml.load(table)
    older = _older(grow, schema) if grow else None
    with replacing(out.resolve()) as partial:
        (partial / "tables").mkdir(parents=True)
        more = (schema,) if dataset in datasets.OWN else ()  # whose columns have the types that features.toml declares
        log = datasets.load(dataset).write_tables(raw, partial / "tables", options, *more)
        if dataset == "service_log":  # whose feature table may be one of three
            log = replace(log, notes=(f"the feature table is {table}", *log.notes))
        meta = encode_tables(partial, schema, log, older, options)
        empty = [name for name, count in meta["impressions"].items() if not count]
        if empty:
            raise PrepareError(f"{' and '.join(empty)} hold no impressions; train, validation and test are all needed")
        return meta


def _place(text: str) -> Path | str:
    """A folder, or a URL as it is."""
    return text if "://" in text else Path(text)


def _older(folder: Path, schema: Schema) -> Encoder:
    folder = folder / "current" if (folder / "current").is_dir() else folder
    try:
        older = Encoder.open(folder)
    except (OSError, KeyError, ValueError) as error:
        raise PrepareError(
            f"--grow {folder} is neither a bundle nor a prepared data set: {command.words(error)}"
        ) from None
    if features_toml.without_sizes(older.schema) != features_toml.without_sizes(schema):
        raise PrepareError(f"--grow {folder} encodes other features; the same features.toml is needed (--features)")
    return older


def _draft(raw: Path, path: Path, options: Options) -> int:
    try:
        made = draft(raw, path, options)
    except (OSError, ValueError) as error:
        print(f"prepare: {command.words(error)}", file=sys.stderr)
        return 1
    print("\n".join(made.summary))
    print(f"\n→ {path}. Go through it, then:\n")
    told = [f"--features {path}"] if path != raw / "features.toml" else []
    told += [f"--map {text}" for text in options.map] + list(made.needs)
    print(
        " ".join(
            [f"  python -m model.prepare --dataset parquet --raw {raw}", *told, f"--out data/{raw.resolve().name}\n"]
        )
    )
    print(json.dumps({"features": str(path)}))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.prepare", description="Raw log → prepared data set.")
    of = "parquet: tables of your own, as CSV and JSON lines too; service_log: what was served; "
    of += "simulated, chain: made-up worlds; a public log"
    parser.add_argument("--dataset", required=True, choices=datasets.names(), help=of)
    parser.add_argument(
        "--raw",
        type=_place,
        help="folder of the raw log (not for simulated, chain); service_log: the drain's folder or URL",
    )
    parser.add_argument("--out", type=Path, help="folder of the prepared data set; an older one is replaced")
    parser.add_argument("--features", type=Path, help="features.toml to use instead of the data set's own")
    parser.add_argument(
        "--draft",
        action="store_true",
        help="parquet: prepare nothing, but look at the tables and write a first features.toml beside them",
    )
    parser.add_argument(
        "--grow", type=Path, help="bundle or prepared data whose rows stay, new ids after them: for model.train --warm"
    )
    parser.add_argument(
        "--impressions", type=int, help=f"simulated, chain: how many (default: {Options().impressions})"
    )
    parser.add_argument(
        "--seed", type=int, help="of a world that is drawn and its log; taobao, amazon: of the negatives"
    )
    parser.add_argument(
        "--delay",
        dest="delay_s",
        metavar="DURATION",
        help="behaviours newer than this before an impression are not known yet, as in the store: 3600, 10m, 1h",
    )
    parser.add_argument(
        "--ties",
        choices=("strict", "published"),
        help="amazon: of one day's reviews a history holds none, or those earlier in the file, as in the papers",
    )
    parser.add_argument("--skip-bad", type=int, metavar="N", help="malformed lines to pass over before stopping")
    parser.add_argument(
        "--map",
        action="append",
        metavar="TABLE.COLUMN=NAME",
        help="parquet: a column under another name, impressions.ts=timestamp; may be given several times",
    )
    parser.add_argument(
        "--behaviours-from",
        choices=("tables", "impressions"),
        help="parquet: impressions: every clicked impression is a behaviour, and no table of them is needed",
    )
    parser.add_argument(
        "--negatives", type=int, metavar="N", help="parquet: draw N for each of a log of positives alone"
    )
    parser.add_argument(
        "--base", type=Path, metavar="DATA", help="service_log: prepared data with items, earlier behaviours, profiles"
    )
    parser.add_argument(
        "--shown",
        choices=("returned", "confirmed"),
        help="service_log: an impression is an item that was returned, or one that an impression event confirms",
    )
    parser.add_argument(
        "--window",
        dest="window_s",
        metavar="DURATION",
        help="service_log: a click so long after its impression is a positive (30m)",
    )
    parser.add_argument("--label", metavar="ACTION", help="service_log: which event is a positive (click)")
    parser.add_argument("--memory", type=float, dest="memory_gib", metavar="GIB", help="that preparing may take (4)")
    parser.add_argument("--processes", type=int, help="that encode (default: one a core)")
    parser.add_argument("--parts", type=int, help="of the impressions, encoded one after another (default: of 500,000)")
    parser.add_argument(
        "--engine", choices=("duckdb", "spark"), help="that numbers and encodes (duckdb); both write the same bytes"
    )
    parser.add_argument("--master", help="spark: local[N], spark://HOST:PORT, yarn, k8s://URL (this machine's cores)")
    arguments = parser.parse_args(argv)
    named = {name: value for name in asdict(Options()) if (value := getattr(arguments, name)) is not None}
    named |= {name: tuple(value) for name, value in named.items() if isinstance(value, list)}
    try:
        if "delay_s" in named:
            named["delay_s"] = seconds(named["delay_s"], "arguments", "--delay")
        if "window_s" in named:
            named["window_s"] = seconds(named["window_s"], "arguments", "--window")
        options = datasets.options(arguments.dataset, arguments.raw, named)
    except OptionError as error:
        parser.error(str(error))
    if arguments.draft:
        if arguments.dataset != "parquet":
            parser.error(
                f"--draft with --dataset {arguments.dataset}: it has a features.toml; own tables (parquet) need one"
            )
        if arguments.out or arguments.grow:
            parser.error("--draft prepares nothing: --out and --grow go with the next command, which it tells")
        return _draft(arguments.raw, arguments.features or arguments.raw / "features.toml", options)
    if arguments.out is None:
        parser.error("the following arguments are required: --out")
    try:
        meta = prepare(arguments.dataset, arguments.raw, arguments.out, options, arguments.features, arguments.grow)
    except (OSError, ValueError) as error:
        hint = "; --skip-bad N passes over N malformed rows" if isinstance(error, MalformedLine) else ""
        print(f"prepare: {command.words(error)}{hint}", file=sys.stderr)
        return 1
    if meta["bad_lines"]:
        print(f"prepare: {meta['bad_lines']} malformed lines passed over", file=sys.stderr)
    length = features_toml.load(arguments.out / "features.toml").history.length
    print("\n".join(summary.lines(meta, length)))
    print(f"→ {arguments.out}")
    for note in (*meta["notes"], *summary.warnings(meta)):
        print(f"prepare: {note}", file=sys.stderr)
    print(json.dumps({"data": str(arguments.out), **meta}))
    return 0


if __name__ == "__main__":
    command.run(main, "prepare", "--out is as it was")
