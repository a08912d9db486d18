"""The parity proof: what the service served, scored again from its log. The alarm for train/serve skew.

    python -m model.replay --log log --bundle bundles
    python -m model.replay --log s3://mine/log --bundle bundles/bst_mine --base data/mine --days 2026-11-26,2026-11-27

Every item that a request returned is scored twice: (1) from what the log holds (profile, behaviours, context and
features as used), (2) from profile and history rebuilt from events, with what --base knows of the time before. Scores
must be the logged ones to --tolerance; those of an int8 graph to its own, as when a service starts with it.

--bundle is a bundle, or a folder with bundles, versions, and catalogues and counts of before their swaps at any depth.
The last line is JSON. Exit code 1: something differs, or nothing could be scored.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from model import command
from model.bundle.layout import GOLDEN_TOLERANCE
from model.engine import engine
from model.features import schema as features_toml
from model.replaying.log import Log
from model.replaying.proof import STAGES, Proof, Prover
from model.replaying.shelf import Shelf
from model.servicelog.reading import LogError, files

KEEP = 100  # as RANKER_HISTORY_KEEP
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def replay(
    log: Path | str,
    bundle: Path,
    base: Path | None = None,
    days: Sequence[str] = (),
    tolerance: float = GOLDEN_TOLERANCE,
    keep: int = KEEP,
    skew_ms: int = 0,
    memory_gib: float = 4.0,
) -> Prover:
    """Scores the log again. Raises LogError, BundleError, SchemaError, OSError."""

    def wanted(table: str, day: str) -> bool:
        """Of events and users all days count: what was before is in a later history."""
        return table != "impressions" or not days or day in days

    shelf = Shelf(bundle)
    schema = features_toml.load(base / "features.toml") if base else None
    prover = Prover(shelf, tolerance, keep, skew_ms * 1000)
    with TemporaryDirectory(prefix="replay-") as folder, engine(Path(folder), memory_gib) as con:
        try:
            found = files(log, Path(folder), wanted)
        except LogError as error:
            raise LogError(f"{error}{f' (--days {chr(44).join(days)})' if days else ''}") from None
        tables = Log(con, found, base, schema)
        with tqdm(total=tables.requests(), desc="scoring again", unit=" requests", disable=None) as bar:
            for user in tables.users():
                prover.prove(user)
                bar.update(len(user.requests))
    return prover


def told(prover: Prover) -> list[str]:
    """For people: what was compared, by stage what differs, and the first rows that do."""
    proof = prover.proof
    lines = [
        f"{proof.requests} requests, {proof.rows} rows from what the log holds: {proof.max_abs_diff:.1e} off at most",
        f"{proof.rebuilt_rows} rows from histories rebuilt from events: {proof.max_abs_diff_rebuilt:.1e} off at most",
    ]
    lines += [f"skipped, {reason}: {count} rows" for reason, count in sorted(proof.skipped.items())]
    if proof.differences:
        lines += ["", f"{'stage':12}{'rows':>10}"]
        lines += [f"{stage:12}{proof.differences[stage]:10}" for stage in STAGES]
        if proof.differences["history"]:
            lines.append(
                "history: events in a journal's files that are still open look lost; drain when they are closed"
            )
        lines += ["", "the first that differ"]
        lines += [
            f"  {row.stage}: request {row.request_id}, user {row.user_id}, item {row.item_id}: logged "
            f"{row.logged:.7g}, {'not scored' if row.recomputed is None else f'recomputed {row.recomputed:.7g}'}; "
            f"{row.why}"
            for row in proof.first
        ]
    return lines


def facts(proof: Proof) -> dict[str, Any]:
    """For scripts."""
    return {
        "requests": proof.requests,
        "rows": proof.rows,
        "rows_rebuilt": proof.rebuilt_rows,
        "max_abs_diff": proof.max_abs_diff,
        "max_abs_diff_rebuilt": proof.max_abs_diff_rebuilt,
        "differences": {stage: proof.differences[stage] for stage in STAGES},
        "skipped": dict(sorted(proof.skipped.items())),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m model.replay", description="Served = offline, proven from the log."
    )
    parser.add_argument("--log", type=_place, required=True, help="what service.drain wrote: a folder, s3:// or gs://")
    parser.add_argument("--bundle", type=Path, required=True, help="a bundle, or a folder that holds all that served")
    parser.add_argument("--base", type=Path, help="prepared data with which the store was filled before the log began")
    parser.add_argument("--days", type=_days, default=(), help="of requests, UTC, with commas: 2026-11-26,2026-11-27")
    parser.add_argument("--tolerance", type=float, default=GOLDEN_TOLERANCE, help="of fp32 scores (1e-5)")
    parser.add_argument("--keep", type=int, default=KEEP, help=f"the service's RANKER_HISTORY_KEEP ({KEEP})")
    parser.add_argument("--skew-ms", type=int, default=0, help="by how much clocks of its machines may differ (0)")
    parser.add_argument("--memory", type=float, default=4.0, metavar="GIB", help="that sorting may take (4)")
    arguments = parser.parse_args(argv)
    for name, least in (("tolerance", 0), ("keep", 1), ("skew_ms", 0), ("memory", 0.1)):
        if not getattr(arguments, name) >= least:
            parser.error(f"--{name.replace('_', '-')} {getattr(arguments, name)}, allowed: {least} and more")
    try:
        prover = replay(
            arguments.log,
            arguments.bundle,
            arguments.base,
            arguments.days,
            arguments.tolerance,
            arguments.keep,
            arguments.skew_ms,
            arguments.memory,
        )
    except (OSError, ValueError) as error:
        print(f"replay: {command.words(error)}", file=sys.stderr)
        return 1
    for line in prover.absent:
        print(f"replay: {line}", file=sys.stderr)
    print("\n".join(told(prover)))
    print(json.dumps(facts(prover.proof)))
    if not prover.proof.rows:
        print("replay: nothing could be scored, so nothing is proven", file=sys.stderr)
    return 1 if prover.proof.differences.total() or not prover.proof.rows else 0


def _place(text: str) -> Path | str:
    return text if "://" in text else Path(text)


def _days(text: str) -> tuple[str, ...]:
    days = tuple(text.split(","))
    if not all(DAY.fullmatch(day) for day in days):
        raise argparse.ArgumentTypeError(f"{text} given, days like 2026-11-26,2026-11-27 are allowed")
    return days


if __name__ == "__main__":
    command.run(main, "replay")
