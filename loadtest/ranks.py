"""What a second process gains in training, and what tables in parts cost or gain beside whole ones, on one machine.

    PYTHONPATH=.cache/sharded python -m loadtest.ranks [--quick]

BST at the paper's sizes, batches of 1024, a million items, Adagrad: model/train.py's own loop over a made-up data set
(loadtest/bench/prepared.py). One process or two, of one thread each, with whole tables (our lookups and steps) or with
tables in parts (TorchRec's, whose rows FBGEMM looks up and steps in the backward pass); and one process of two threads.
Two processes have half of each batch each: a batch stays as large. Sides take turns; figures are medians. The last line
is JSON. TorchRec: `make sharded`.
"""

import io
import os
import statistics
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loadtest.bench.command import Command, Measured
from loadtest.bench.prepared import data_set
from loadtest.bench.processes import free_port
from loadtest.bench.turns import ratio, take_turns
from loadtest.errors import NoRun
from loadtest.table import table
from loadtest.training import BATCH, CACHE
from model.command import run as run_command
from model.prepared.loader import Prepared
from model.training.recipe import Recipe, RecipeError, Training
from model.training.run import Run
from model.training.sharded.run import ShardedRun
from model.training.sharded.torchrec_tables import check_installed


@dataclass(frozen=True)
class Sizes:
    items: int = 1_000_000
    impressions: int = 1_000_000
    rounds: int = 7
    steps: int = 12  # a round
    warm: int = 60  # untimed


QUICK = Sizes(2_000, 10_000, rounds=2, steps=1, warm=1)


@dataclass(frozen=True)
class Kind:
    ranks: int = 1
    threads: int = 1
    parts: bool = False


SIDES = {
    "one process": Kind(),
    "one process, two threads": Kind(threads=2),
    "two processes": Kind(ranks=2),
    "one process, tables in parts": Kind(parts=True),
    "two processes, tables in parts": Kind(ranks=2, parts=True),
}


class Side:
    """Processes that train together, and wait between rounds."""

    def __init__(self, kind: Kind, folder: Path, sizes: Sizes, stack: ExitStack):
        context, port = get_context("spawn"), free_port()
        self._steps, self._ends = sizes.steps, []
        for rank in range(kind.ranks):
            ours, theirs = context.Pipe()
            process = context.Process(target=_rank, args=(theirs, rank, port, kind, folder), daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.join)
            stack.callback(ours.close)  # which ends it
            self._ends.append(ours)
        self.round(sizes.warm)

    def round(self, steps: int | None = None) -> float:
        """Seconds per step, of the slowest."""
        for end in self._ends:
            end.send(steps or self._steps)
        try:
            return max(float(end.recv()) for end in self._ends)
        except EOFError:
            raise NoRun("a process that trains has ended; it says above why") from None


def _rank(asked: Connection, rank: int, port: int, kind: Kind, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(kind.ranks), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(kind.threads)
    data = Prepared(folder)
    recipe = Recipe(training=Training(optimiser="adagrad", batch_size=BATCH, checkpoint_s=1e9))
    run = (ShardedRun if kind.parts else Run)(data, "bst", recipe, 1, Path(os.devnull), device="cpu")
    rest = np.random.default_rng(1).permutation(data.of_split("train"))
    try:
        while True:
            rows = np.resize(rest, asked.recv() * BATCH)
            rest, before = np.roll(rest, -len(rows)), run.progress["seconds"]
            with redirect_stderr(io.StringIO()):  # its own bar
                run.train(rows, run.progress["epoch"] + 1, looks=0)
            asked.send(float(run.progress["seconds"] - before) / (len(rows) // BATCH))
    except EOFError:
        run.world.close()


def measure(cache: Path, sizes: Sizes) -> Measured:
    """Raises NoRun."""
    try:
        check_installed()
    except RecipeError as error:
        raise NoRun(str(error)) from None
    folder = data_set(cache, sizes.items, sizes.impressions).folder
    with ExitStack() as stack:
        sides = {name: Side(kind, folder, sizes, stack).round for name, kind in SIDES.items()}
        seconds = take_turns("training", sizes.rounds, sides)
    one, threads, two, parts, two_parts = seconds.values()
    figures: dict[str, Any] = {
        "gain_two_processes": ratio(one, two),
        "gain_two_threads": ratio(one, threads),
        "gain_two_processes_in_parts": ratio(parts, two_parts),
        "parts_over_whole": ratio(parts, one),
        "two_parts_over_two_whole": ratio(two_parts, two),
        "step_ms": {name: 1000 * statistics.median(rounds) for name, rounds in seconds.items()},
        "torch": torch.__version__,
    }
    rows = {name: [ms, round(1000 * BATCH / ms)] for name, ms in figures["step_ms"].items()}
    lines = [
        f"steps a second, one process = 1: two threads {figures['gain_two_threads']:.2f}, "
        f"two processes {figures['gain_two_processes']:.2f}",
        f"a step with tables in parts, with whole tables = 1: one process {figures['parts_over_whole']:.2f}, "
        f"two processes {figures['two_parts_over_two_whole']:.2f}",
    ]
    return Measured(figures, "\n".join([table(f"BST, {sizes.items:,} items", ["ms per step", "rows/s"], rows), *lines]))


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("ranks", __doc__, Sizes(), QUICK, CACHE, plots=False)
    return command.run(arguments, lambda args, sizes: measure(args.cache, sizes))


if __name__ == "__main__":
    run_command(main, "ranks")
