"""How fast BST trains at the paper's sizes, side by side with torch-rechub's, and what memory it takes.

    python -m loadtest.training [--peers] [--quick]

Sizes: d = 64, T = 20, MLP 1024-512-256, batches of 1024, Adam on both sides. What runs is model/train.py's own loop
over made-up data sets (loadtest/bench/prepared.py), kept in .cache/training.

- rows/s at 100 thousand and at a million items; with --peers torch-rechub's BST as shipped (d = 64 as 32 item +
  32 category, positions added; feed-forward 2048; its trainer, its DataLoader), and with the feed-forward of 4d = 256;
- the step's time at 10 million items over that at 100 thousand;
- the peak memory of a run over 10 million impressions and a million items, in a process of its own: the whole log is
  shuffled and gathered, --steps batches of it, evenly spread, are trained on; a look at validation and a checkpoint
  belong to it.

All that is compared takes turns, round by round; figures are medians. The last line is JSON.
"""

import io
import os
import resource
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from loadtest import peers
from loadtest.bench.command import Command, Measured, positive
from loadtest.bench.prepared import data_set
from loadtest.bench.turns import ratio, take_turns
from loadtest.peers import Peer
from loadtest.peers.rows import write_rows
from loadtest.table import table
from model.command import run as run_command
from model.prepared.loader import Prepared
from model.training.recipe import Recipe, Training
from model.training.run import Run

CACHE = peers.ROOT / ".cache" / "training"
BATCH = 1024
PEER_WIDTHS = [16, 32]  # torch-rechub stacks embeddings of one width outside the sequence, and of one in it
PEERS = {"torch-rechub": None, "torch-rechub, FFN 4d": 256}  # inner width of its feed-forward, where not as shipped
RATE = 1e-3  # learning rate; it does not matter here
GIB = 2**30


@dataclass(frozen=True)
class Sizes:
    small: int = 100_000  # items
    large: int = 1_000_000
    huge: int = 10_000_000
    impressions: int = 1_000_000
    long: int = 10_000_000  # impressions of the data set with `large` items
    rounds: int = 7
    round_steps: int = 12  # of ours
    peer_steps: int = 2  # of torch-rechub a round, the first of the same rows
    steps: int = 400  # batches of the long run that go through the network
    warm: int = 60  # untimed steps: until then a large table's pages are touched for the first time


QUICK = Sizes(500, 1_000, 2_000, 10_000, 10_000, rounds=2, round_steps=1, peer_steps=1, steps=3, warm=1)


class Ours:
    """Our BST on one data set; a round is an epoch of the training loop over some of its impressions."""

    def __init__(self, data: Prepared, sizes: Sizes):
        recipe = Recipe(training=Training(optimiser="adam", learning_rate=RATE, batch_size=BATCH, checkpoint_s=1e9))
        self.run = Run(data, "bst", recipe, 1, Path(os.devnull), device="cpu")
        self._rest = np.random.default_rng(1).permutation(data.of_split("train"))
        self._steps = sizes.round_steps
        self.round(sizes.warm)

    def round(self, steps: int | None = None) -> float:
        """Seconds per step."""
        steps = steps or self._steps
        rows, self._rest = self._rest[: steps * BATCH], self._rest[steps * BATCH :]
        self._rest = np.concatenate([self._rest, rows])
        before = self.run.progress["seconds"]
        with redirect_stderr(io.StringIO()):  # its own bar
            self.run.train(rows, self.run.progress["epoch"] + 1, looks=0)
        return float(self.run.progress["seconds"] - before) / -(-len(rows) // BATCH)


class Theirs:
    """torch-rechub's BST in its own process, on impressions of the same data set."""

    def __init__(self, python: Path, data: Prepared, sizes: Sizes, ffn: int | None):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.npz"
            rows = np.random.default_rng(1).permutation(data.of_split("train"))[: sizes.peer_steps * BATCH]
            write_rows(path, data, rows)
            self.process = Peer(python, ["--rows", str(path)], torch.get_num_threads())
            self.process.ask(
                do="build", network="BST", rate=RATE, seed=1, batch_size=BATCH, widths=PEER_WIDTHS, ffn=ffn
            )
        self._steps = sizes.peer_steps
        self.round()

    def round(self) -> float:
        """Seconds per step."""
        return float(self.process.ask(do="time", rows=0)["seconds"]) / self._steps


class _Sampled(Run):
    """A run that trains on one of `every` batches, and gathers them all."""

    every = 1

    def step(self, rows: npt.NDArray[np.int64], negative: npt.NDArray[np.int64] | None = None) -> torch.Tensor:
        if self.progress["batch"] % self.every:
            self.data.batch(rows)
            return torch.zeros(())
        return super().step(rows, negative)


class _Watch(threading.Thread):
    """The most that this process held, sampled: proportional (mapped files that it alone reads count) and anonymous."""

    EVERY_S = 0.5

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = {"Pss": 0, "Anonymous": 0}
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(self.EVERY_S):
            self.look()

    def look(self) -> None:
        try:
            lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
        except OSError:  # no Linux
            return
        kib = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
        self.most = {name: max(most, kib[name] * 1024) for name, most in self.most.items()}

    def stop(self) -> dict[str, int]:
        self._done.set()
        self.join()
        self.look()
        return self.most


def memory(folder: Path, steps: int, threads: int) -> dict[str, Any]:
    """Peak memory in GiB of this process, which trains over a whole log; `steps` of its batches go through the network.

    Peak is the kernel's high-water mark of resident pages: those of mapped files count, though it may take them back.
    """
    torch.set_num_threads(threads)
    watch = _Watch()
    watch.start()
    training = Training(optimiser="adam", learning_rate=RATE, batch_size=BATCH, evaluations=1, checkpoint_s=10)
    with tempfile.TemporaryDirectory() as scratch:
        data = Prepared(folder)
        run = _Sampled(data, "bst", Recipe(training=training), 1, Path(scratch) / "checkpoint.pt", device="cpu")
        run.every = max(1, data.meta["impressions"]["train"] // BATCH // steps)
        run.fit()
    most = watch.stop()
    return {
        "peak_gib": _peak_bytes() / GIB,
        "peak_pss_gib": most["Pss"] / GIB,
        "peak_anonymous_gib": most["Anonymous"] / GIB,
        "gathered_rows": run.progress["rows"],
        "trained_steps": -(-run.progress["rows"] // BATCH) // run.every,
    }


def _peak_bytes() -> int:
    """The high-water mark of this program; ru_maxrss, used where no /proc is, also knows what the parent held."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def measure(cache: Path, sizes: Sizes, python: Path | None) -> Measured:
    """`python` is that of the peers' environment. Raises NoRun."""
    threads = torch.get_num_threads()
    long = data_set(cache, sizes.large, sizes.long)  # made before: the memory is that of training alone
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        figures = pool.submit(memory, long.folder, sizes.steps, threads).result()
    short = data_set(cache, sizes.small, sizes.impressions)
    ours = {sizes.small: Ours(short, sizes), sizes.large: Ours(long, sizes)}
    seconds: dict[tuple[str, int], list[float]] = {}
    for items, data in ((sizes.small, short), (sizes.large, long)):
        with ExitStack() as stack:
            sides: dict[str, Callable[[], float]] = {"ours": ours[items].round}
            for name, ffn in PEERS.items():
                if not python:
                    break
                sides[name] = (theirs := Theirs(python, data, sizes, ffn)).round
                stack.enter_context(theirs.process)
            rounds = take_turns(f"{items} items", sizes.rounds, sides)
            seconds |= {(name, items): of_side for name, of_side in rounds.items()}
    huge = Ours(data_set(cache, sizes.huge, sizes.impressions), sizes)
    sides = {"small": ours[sizes.small].round, "huge": huge.round}
    growth = take_turns(f"{sizes.huge} items", 2 * sizes.rounds, sides)
    seconds["ours", sizes.huge] = growth["huge"]

    figures["step_growth_100k_to_10m"] = ratio(growth["huge"], growth["small"]) - 1
    ratios = {}
    for label, items in (("100k", sizes.small), ("1m", sizes.large)):
        for key, name in zip((f"ratio_{label}", f"ratio_{label}_ffn_4d"), PEERS, strict=True):
            ratios[key] = ratio(seconds[name, items], seconds["ours", items]) if python else None
    step_ms = {side: 1000 * statistics.median(rounds) for side, rounds in seconds.items()}
    figures |= ratios | {
        "rows_per_s": round(1000 * BATCH / step_ms["ours", sizes.large]),
        "step_ms": {f"{name} {items}": ms for (name, items), ms in step_ms.items()},
        "threads": threads,
        "torch": torch.__version__,
    }
    rows = {f"{name}, {items:,} items": [ms, round(1000 * BATCH / ms)] for (name, items), ms in step_ms.items()}
    lines = [f"{key}: {value:.1f}" for key, value in ratios.items() if value is not None]
    lines += [
        f"a step takes {figures['step_growth_100k_to_10m']:+.1%} with the largest table",
        f"peak memory {figures['peak_gib']:.2f} GiB, of it anonymous {figures['peak_anonymous_gib']:.2f}",
        f"{threads} threads on each side, torch {torch.__version__}",
    ]
    return Measured(figures, "\n".join([table("BST", ["ms per step", "rows/s"], rows), *lines]))


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("training", __doc__, Sizes(), QUICK, CACHE, plots=False)
    add = command.parser.add_argument
    add("--peers", action="store_true", help="install torch-rechub beside the project, and measure it")
    add("--steps", type=positive, help=f"of the memory's run (default {Sizes.steps})")
    add("--threads", type=positive, default=torch.get_num_threads(), help="of each side")

    def work(args: Any, sizes: Sizes) -> Measured:
        torch.set_num_threads(args.threads)
        return measure(args.cache, sizes, peers.environment() if args.peers else None)

    return command.run(arguments, work)


if __name__ == "__main__":
    run_command(main, "training")
