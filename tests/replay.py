"""Every impression of a split as a request, before a store of the log: each is scored as `model.evaluate` scores it.

    python -m tests.replay --bundle BUNDLE --data DIR [--split test] [--precision auto|fp32|int8] [--rows N]

The long form of what `make test` does with a few hundred rows: the log goes into a store, each row through POST /rank
with its time, by the application itself, in this process. Prints one line of JSON: `rows`, `complete` (share of those
of whose history the store still holds all), `seconds`. A score that is further off than 1e-5 ends it with exit code 1.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from model.bundle.precision import PRECISIONS
from model.bundle.reading import Bundle
from model.command import run
from model.prepared.loader import Prepared
from model.prepared.splits import SPLITS
from service.store.embedded import EmbeddedStore
from tests.client import replay


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.replay", description="Served scores = evaluated scores.")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--rows", type=int, help="so many of them, drawn at random (default: all)")
    arguments = parser.parse_args()
    if arguments.rows is not None and arguments.rows < 1:
        parser.error(f"--rows {arguments.rows}, allowed: 1 and more")
    try:
        bundle, data = Bundle.open(arguments.bundle), Prepared(arguments.data)
    except (OSError, ValueError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 1
    rows = data.of_split(arguments.split)
    if arguments.rows is not None and arguments.rows < len(rows):
        rows = np.sort(np.random.default_rng(0).choice(rows, arguments.rows, replace=False))
    begun = time.perf_counter()
    with EmbeddedStore() as store:
        try:
            complete = replay(bundle, data, store.url, rows, precision=arguments.precision)
        except AssertionError as error:
            print(f"replay: {str(error).strip()}", file=sys.stderr)
            return 1
    told = {"rows": len(rows), "complete": complete, "seconds": round(time.perf_counter() - begun, 1)}
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    run(main, "replay")
