"""What changes under a model: a new catalogue, or newer counts, swapped into a bundle while services answer with it.

    python -m model.catalog --bundle bundles/bst_mine --items items.parquet           # the file is the whole catalogue
    python -m model.catalog --bundle bundles/bst_mine --items changed.csv --merge     # updates and additions alone
    python -m model.catalog --bundle bundles/bst_mine --undo                          # back to the one before
    python -m model.catalog --bundle bundles/bst_mine --statistics data/today         # what was counted until today
    python -m model.catalog --bundle bundles/bst_mine --undo statistics               # back to the counts before

The table is prepare's `items`: item_id and a column for each item feature of the bundle's `features.toml`; others are
passed over and named. A file or a folder of parts: `.parquet`, `.csv`, `.tsv` (multi-valued cells are JSON lists),
`.jsonl`, also with `.gz`. With --merge a table may have some of the columns, and a line of JSON some of the keys: of
what it does not name the item's value stays. The model stays as it is: an item that it has not seen in training is
scored by its features, a feature's value likewise by the rest.

Counts, of features of kind `statistic`, are those of a data set prepared with a feature table that counts alike.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from model import command
from model.bundle import swapping
from model.bundle.layout import OLDER
from model.cataloguing.swap import swap, undo
from model.cataloguing.tables import READ


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m model.catalog", description="Swap a bundle's item catalogue, or what its statistics count."
    )
    parser.add_argument("--bundle", type=Path, required=True, help="a bundle, or the folder with its `current`")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--items", type=Path, help=f"table of items: {', '.join(READ)}, also .gz, or a folder of parts")
    what.add_argument(
        "--statistics", type=Path, metavar="PREPARED", help="newer counts: a prepared data set, or its file"
    )
    what.add_argument(
        "--undo",
        nargs="?",
        const="items",
        choices=("items", "statistics"),
        help="back to the catalogue (or the counts) before the last change; once more: forth",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--merge", action="store_true", help="keep the items, and their columns, that the table does not name"
    )
    how.add_argument("--shrink", action="store_true", help="let more than a tenth of the items go")
    how.add_argument("--older", action="store_true", help="let counts of an earlier day take the place of newer ones")
    parser.add_argument(
        "--keep",
        type=_natural,
        default=swapping.KEPT,
        metavar="N",
        help=f"files of before the previous one that stay in {OLDER} for model.replay (default: {swapping.KEPT})",
    )
    arguments = parser.parse_args(argv)
    if not arguments.items and (arguments.merge or arguments.shrink):
        parser.error("--merge and --shrink go with --items")
    if not arguments.statistics and arguments.older:
        parser.error("--older goes with --statistics")
    try:
        if arguments.statistics or arguments.undo == "statistics":
            _recount(arguments)
        else:
            _change(arguments)
    except (OSError, ValueError) as error:
        print(f"catalog: {command.words(error)}", file=sys.stderr)
        return 1
    return 0


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} given, 0 or more is allowed")
    return int(text)


def _change(arguments: argparse.Namespace) -> None:
    if arguments.undo:
        path, change = undo(arguments.bundle)
    else:
        path, change = swap(arguments.bundle, arguments.items, arguments.merge, arguments.shrink, arguments.keep)
    print(f"{change.items} items: {change.added} new, {change.changed} changed, {change.removed} gone → {path}")
    if any(change[1:]):
        print(f"the catalogue before is kept: python -m model.catalog --bundle {arguments.bundle} --undo")
    print(json.dumps({"catalog": str(path), **change._asdict()}))


def _recount(arguments: argparse.Namespace) -> None:
    if arguments.undo:
        made = swapping.undo_counts(arguments.bundle)
    else:
        made = swapping.swap_counts(arguments.bundle, arguments.statistics, arguments.older, arguments.keep)
    days = ", ".join(swapping.day(begin) for begin in made.begins)
    print(f"{made.values} values, counted until {swapping.day(made.begins[-1])} → {made.path}")
    print(f"as known when each of {len(made.begins)} days began: {days}")
    if made.kept:
        print(f"the counts before are kept: python -m model.catalog --bundle {arguments.bundle} --undo statistics")
    counted = {"values": made.values, "days": made.begins, "counted_until": made.begins[-1]}
    print(json.dumps({"statistics": str(made.path), **counted}))


if __name__ == "__main__":
    command.run(main, "catalog", "catalogue and counts are as they were")
