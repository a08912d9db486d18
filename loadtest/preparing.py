"""What preparing a log costs: rows per second of a core, peak memory, and how many times a bare copy of its tables.

    python -m loadtest.preparing [--impressions 10000000] [--quick]

A simulated log's tables are made once and kept in .cache/preparing. `python -m model.prepare --dataset parquet` then
takes turns with DuckDB's bare copy of the same tables, which reads them and writes them again. Both are processes of
their own, and cost their CPU seconds, children included. Memory is the process tree's PSS, looked at five times a
second. The last line is JSON.
"""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtest.bench.command import Command, Measured, positive
from loadtest.bench.processes import pss
from loadtest.bench.turns import take_turns
from loadtest.errors import NoRun
from loadtest.peers import ROOT
from loadtest.table import table
from model import datasets
from model.command import run as run_command
from model.datasets.tables import TABLES, Options
from model.files import replacing

CACHE = ROOT / ".cache" / "preparing"
COPY = """
import sys, duckdb
for table in sys.argv[3:]:
    duckdb.execute(f"COPY (SELECT * FROM '{sys.argv[1]}/{table}.parquet') TO '{sys.argv[2]}/{table}.parquet'")
"""


@dataclass(frozen=True)
class Sizes:
    impressions: int = 10_000_000
    rounds: int = 3


QUICK = Sizes(impressions=20_000, rounds=1)


def tables(cache: Path, impressions: int) -> Path:
    """The folder of a simulated log's tables and features.toml, made where it is not there."""
    folder = cache / str(impressions)
    if not folder.exists():
        with replacing(folder) as partial:
            partial.mkdir(parents=True)
            datasets.load("simulated").write_tables(None, partial, Options(impressions=impressions))
            shutil.copy(datasets.features("simulated", None), partial / "features.toml")
    return folder


def cost(arguments: Sequence[str]) -> tuple[float, float]:
    """CPU seconds of a Python process and all that it starts, and its peak PSS in GiB. Raises NoRun."""
    peak, ended = 0, threading.Event()
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:

        def watch() -> None:
            nonlocal peak
            while not ended.wait(0.2):
                with suppress(OSError, StopIteration, NoRun):  # one that has just ended
                    peak = max(peak, pss(process.pid))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        before = os.times()
        try:
            _, errors = process.communicate()
        except BaseException:
            process.kill()
            raise
        finally:
            ended.set()
            thread.join()
    after = os.times()
    if process.returncode:
        raise NoRun(f"{arguments[1]} ended with {process.returncode}: {errors.decode(errors='replace').strip()[-300:]}")
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return spent, peak / 2**30


def measure(cache: Path, sizes: Sizes) -> Measured:
    raw = tables(cache, sizes.impressions)
    with TemporaryDirectory(dir=cache) as scratch:

        def prepare() -> tuple[float, float]:
            return cost(["-m", "model.prepare", "--dataset", "parquet", "--raw", str(raw), "--out", f"{scratch}/out"])

        def copy() -> tuple[float, float]:
            return cost(["-c", COPY, str(raw), scratch, *TABLES])

        rounds = take_turns("preparing", sizes.rounds, {"prepare": prepare, "copy": copy})
    (seconds, peaks), (bare, bare_peaks) = (tuple(zip(*rounds[side], strict=True)) for side in ("prepare", "copy"))
    ratios = sorted(one / other for one, other in zip(seconds, bare, strict=True))
    best = min(seconds)
    figures = {
        "impressions": sizes.impressions,
        "rows_per_s_core": sizes.impressions / best,
        "peak_gib": max(peaks),
        "times_a_copy": ratios[len(ratios) // 2],
    }
    rows = {
        "model.prepare": [best, sizes.impressions / best, max(peaks)],
        "a bare copy": [min(bare), sizes.impressions / min(bare), max(bare_peaks)],
    }
    return Measured(figures, table("", ["CPU s, best", "rows/s of a core", "peak GiB"], rows))


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("preparing", __doc__, Sizes(), QUICK, CACHE, plots=False)
    command.parser.add_argument("--impressions", type=positive, help="of the simulated log")
    return command.run(arguments, lambda args, sizes: measure(args.cache, sizes))


if __name__ == "__main__":
    run_command(main, "preparing")
