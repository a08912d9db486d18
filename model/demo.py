"""`make demo-bundle`: trains the small bundle that comes with the package, and picks the users that come with it.

The simulator's world, a recipe with a smaller MLP, and so few hash buckets that the whole stays under 2 MB.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from model import command, train
from model.bundle.reading import Bundle
from model.datasets.tables import Options
from model.prepare import prepare
from model.training.recipe import RECIPES

DEMO = Path(__file__).parent.parent / "service" / "demo"
IMPRESSIONS, SEED = 200_000, 7
USERS, CLICKS = 200, 30  # of the users file: the golden requests' users, then others; their newest clicks
MOST_BYTES = 2 * 2**20


def users(bundle: Bundle, data: Path) -> list[dict[str, Any]]:
    """Users as JSON lines hold them: golden ones first, each with profile and newest clicks."""
    golden = [request["user_id"] for request in bundle.golden() if request["profile"]]
    frame = pl.read_parquet(data / "tables" / "users.parquet")
    chosen = list(dict.fromkeys([*golden, *frame["user_id"].to_list()]))[:USERS]
    clicks = (
        pl.scan_parquet(data / "tables" / "behaviours.parquet")
        .filter(pl.col("user_id").is_in(chosen) & (pl.col("action") == "click"))
        .sort("timestamp", maintain_order=True)
        .group_by("user_id")
        .agg(pl.col("action", "object_type", "object_id", "timestamp").tail(CLICKS))
        .collect()
    )
    of_user = {
        user_id: [list(click) for click in zip(*columns, strict=True)] for user_id, *columns in clicks.iter_rows()
    }
    profiles = {row.pop("user_id"): row for row in frame.iter_rows(named=True)}
    return [{"user_id": u, "user": profiles[u], "behaviours": of_user.get(u, [])} for u in chosen]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.demo", description="Train the demo bundle again.")
    parser.add_argument("--work", type=Path, required=True, help="folder for the data set and the bundle")
    parser.add_argument("--out", type=Path, default=DEMO, help="where bundle/ and users.jsonl go")
    parser.add_argument("--impressions", type=int, default=IMPRESSIONS)
    arguments = parser.parse_args(argv)
    data = arguments.work / "simulated"
    arguments.work.mkdir(parents=True, exist_ok=True)
    options = Options(impressions=arguments.impressions, seed=SEED)
    prepare("simulated", None, data, options, features=RECIPES / "demo_features.toml")
    status = train.main(
        ["--data", str(data), "--network", "bst", "--out", str(arguments.work), "--recipe", str(RECIPES / "demo.toml")]
    )
    if status:
        return status
    bundle = Bundle.open(arguments.work / "bst_simulated")
    lines = [json.dumps(user, separators=(",", ":")) for user in users(bundle, data)]
    size = sum(path.stat().st_size for path in bundle.folder.rglob("*")) + sum(map(len, lines))
    if size > MOST_BYTES:
        print(f"demo: {size} bytes, at most {MOST_BYTES} belong in the repository", file=sys.stderr)
        return 1
    shutil.rmtree(arguments.out / "bundle", ignore_errors=True)
    shutil.copytree(bundle.folder, arguments.out / "bundle")
    (arguments.out / "users.jsonl").write_text("\n".join(lines) + "\n")
    print(f"demo: {size / 2**20:.2f} MiB in {arguments.out}")
    return 0


if __name__ == "__main__":
    command.run(main, "demo")
