"""How fast BST trains at the paper's sizes, side by side with torch-rechub's, and what memory it takes.

    python -m loadtest.training [--peers] [--quick]

Sizes: d = 64 (32 item + 16 category + 16 position), T = 20, MLP 1024-512-256, batches of 1024, Adam on both sides.
What runs is model/train.py's own loop over prepared data sets, which are made up here and kept in .cache/training: ids
are uniform, the worst case for tables, since no row is warm in a cache and no two rows of a batch are one.

- rows/s at 100 thousand and at a million items; with --peers torch-rechub's BST as shipped (d = 64 as 32 item +
  32 category, positions added; feed-forward 2048; its trainer, its DataLoader), and with the feed-forward of 4d = 256;
- the step's time at 10 million items over that at 100 thousand;
- the peak memory of a run over 10 million impressions and a million items, in a process of its own: the whole log is
  shuffled and gathered, --steps batches of it, evenly spread, are trained on; a look at validation and a checkpoint
  belong to it.

All that is compared takes turns, round by round, and medians are told. The last line is JSON.
"""

import argparse
import io
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tomli_w
import torch
from tqdm import tqdm

from loadtest import peers
from loadtest.errors import NoRun
from loadtest.peers import Peer
from model.features import schema as features_toml
from model.features.catalog import FILE, Catalog
from model.features.encode import Encoder, Statistics
from model.features.ids import FIRST
from model.features.schema import Schema
from model.features.table import Vocabulary
from model.files import replacing, write_json
from model.prepared.loader import Prepared
from model.prepared.splits import SPLITS
from model.training.recipe import Recipe, Training
from model.training.run import Run

CACHE = peers.ROOT / ".cache" / "training"
BATCH = 1024
WIDTH, PEER_WIDTHS, FFN_4D = 16, [16, 32], 256  # of the other features; torch-rechub stacks embeddings of one width
GIB = 2**30
CHUNK = 500_000  # rows written at once
DAY_MS = 86_400_000
DAYS = 100  # of the log: the last one is test, the one before validation
BEGIN_MS = 1_600_000_000_000 // DAY_MS * DAY_MS
PER_USER, CLICKS = 20, 40  # impressions and behaviours a user; nearly all histories are full
CLICK_RATE = 0.1
RATE = 1e-3  # learning rate; it does not matter here
FORMAT = 1  # of the made-up data sets: another number makes the cache anew
VALUES = {"age": 10, "gender": 3, "city": 400, "position": 50, "category_id": 10_000}
Arrays = npt.NDArray[Any]


@dataclass(frozen=True)
class Sizes:
    small: int = 100_000  # items
    large: int = 1_000_000
    huge: int = 10_000_000
    impressions: int = 1_000_000
    long: int = 10_000_000  # impressions of the data set with `large` items
    rounds: int = 7
    steps: int = 12  # of ours a round
    peer_steps: int = 2  # of torch-rechub, the first of the same rows
    trained: int = 400  # batches of the long run that go through the network
    warm: int = 60  # untimed steps: until then a large table's pages are touched for the first time


QUICK = Sizes(500, 1_000, 2_000, 10_000, 10_000, rounds=2, steps=1, peer_steps=1, trained=3, warm=1)


def schema() -> Schema:
    """Features of the paper's Table 1 at its sizes."""

    def category(name: str, side: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "side": side, "kind": "category", "type": "int", "width": WIDTH, **more}

    users = [category(name, "user") for name in ("age", "gender", "city")]
    item = {"name": "item_id", "side": "item", "kind": "id", "type": "int", "sequence_width": 32}
    return features_toml.parse(
        {
            "user_id": "int",
            "history": {"length": 20},
            "feature": [
                *users,
                item,
                category("category_id", "item", sequence_width=16),
                category("position", "context", default=1),
            ],
        }
    )


def write_data(folder: Path, items: int, impressions: int, seed: int = 1) -> None:
    """A prepared data set of made-up rows; it can be trained on, not published from: it has no ids to record.

    `impressions` are those of the training days; the two days after them add a hundredth each.
    """
    table, sizes, rng = schema(), VALUES | {"item_id": items}, np.random.default_rng(seed)
    for room in ("vocab", "catalog", "encoded"):
        (folder / room).mkdir(parents=True)
    (folder / "features.toml").write_text(tomli_w.dumps(table.as_dict()))
    known = {name: Vocabulary.build(np.arange(n, dtype=np.uint64), FIRST + np.arange(n)) for name, n in sizes.items()}
    encoder = Encoder(table, known, Statistics({name: FIRST + n for name, n in sizes.items()}))
    encoder.save(folder / "vocab")
    columns = {"item_id": np.arange(items, dtype=np.uint64), "category_id": _keys(rng, "category_id", items)}
    Catalog.build(table, columns["item_id"], columns).save(folder / "catalog" / FILE)

    day = max(1, impressions // (DAYS - 2))
    count = impressions + 2 * day
    users = -(-count // PER_USER)

    def new(name: str, dtype: Any, *shape: int) -> Arrays:
        made: Arrays = np.lib.format.open_memmap(folder / "encoded" / f"{name}.npy", "w+", dtype, shape)
        return made

    item_rows, user_rows = new("items", np.int32, items, 2), new("users", np.int32, users, 3)
    for at in _pieces("items", items):
        given = {name: values[at] for name, values in columns.items()}
        item_rows[at] = encoder.rows(table.side("item"), given, at.stop - at.start)
    begin, clicked = new("begin", np.int64, users), new("clicked", np.int32, users * CLICKS)
    clicked_at, acted = new("clicked_at", np.int64, users * CLICKS), new("acted", np.int8, users * CLICKS)
    for at in _pieces("users", users):
        size, behaviours = at.stop - at.start, slice(at.start * CLICKS, at.stop * CLICKS)
        given = {f.name: _keys(rng, f.name, size) for f in table.side("user")}
        user_rows[at] = encoder.rows(table.side("user"), given, size)
        begin[at] = np.arange(at.start, at.stop) * CLICKS
        clicked[behaviours] = rng.integers(items, size=size * CLICKS)
        times = rng.integers(BEGIN_MS - DAYS * DAY_MS, BEGIN_MS + DAYS * DAY_MS, (size, CLICKS))
        clicked_at[behaviours] = np.sort(times, 1).reshape(-1)
        acted[behaviours] = 1
    times_UB = clicked_at.reshape(users, CLICKS)
    user, item, end = new("user", np.int32, count), new("item", np.int32, count), new("end", np.int64, count)
    time, label, split = new("time", np.int64, count), new("label", np.int8, count), new("split", np.int8, count)
    context = new("context", np.int32, count, 1)
    for at in _pieces("impressions", count):
        number = np.arange(at.start, at.stop)
        user[at] = whose = rng.integers(users, size=len(number))
        item[at] = rng.integers(items, size=len(number))
        time[at] = when = BEGIN_MS + number * (DAYS * DAY_MS) // count
        end[at] = whose * CLICKS + (times_UB[whose] < when[:, None]).sum(1)
        label[at] = rng.random(len(number)) < CLICK_RATE
        split[at] = np.searchsorted([impressions, impressions + day], number, "right")
        given = {"position": _keys(rng, "position", len(number))}
        context[at] = encoder.rows(table.side("context"), given, len(number))
    for name, rows in {"items": items, "users": users, "context": count}.items():
        new(f"{name}_numbers", np.float32, rows, 0)
    new("cross", np.int32, count, 0)
    meta = {
        "dataset": "made_up",
        "time_zone": "UTC",
        "impressions": dict(zip(SPLITS, (impressions, day, day), strict=True)),
        "users": users,
        "items": items,
        "behaviours": users * CLICKS,
    }
    write_json(folder / "meta.json", meta)


def _keys(rng: np.random.Generator, name: str, count: int) -> npt.NDArray[np.uint64]:
    return rng.integers(VALUES[name], size=count).astype(np.uint64)


def _pieces(what: str, count: int) -> Iterator[slice]:
    """Slices of CHUNK rows: memory stays bounded, however long the log."""
    with tqdm(total=count, desc=f"making {what}", unit_scale=True, delay=1, leave=False) as bar:
        for at in range(0, count, CHUNK):
            piece = slice(at, min(at + CHUNK, count))
            yield piece
            bar.update(piece.stop - at)


def data_set(cache: Path, items: int, impressions: int) -> Prepared:
    """The made-up data set of that size, from the cache where it is there."""
    folder = cache / f"{items}-items-{impressions}-impressions-{FORMAT}"
    if not folder.exists():
        with replacing(folder) as partial:
            write_data(partial, items, impressions)
    return Prepared(folder)


class Ours:
    """Our BST on one data set; a round is an epoch of the training loop over some of its impressions."""

    def __init__(self, data: Prepared, sizes: Sizes):
        recipe = Recipe(training=Training(optimiser="adam", learning_rate=RATE, batch_size=BATCH, checkpoint_s=1e9))
        self.run = Run(data, "bst", recipe, 1, Path(os.devnull), device="cpu")
        self._rest = np.random.default_rng(1).permutation(data.of_split("train"))
        self._steps = sizes.steps
        self.round(sizes.warm)

    def round(self, steps: int | None = None) -> float:
        """Seconds a step."""
        steps = steps or self._steps
        rows, self._rest = self._rest[: steps * BATCH], self._rest[steps * BATCH :]
        self._rest = np.concatenate([self._rest, rows])
        before = self.run.progress["seconds"]
        with redirect_stderr(io.StringIO()):  # its own bar
            self.run.train(rows, self.run.progress["epoch"] + 1, looks=0)
        return float(self.run.progress["seconds"] - before) / -(-len(rows) // BATCH)


class Theirs:
    """torch-rechub's BST in its own process, on impressions of the same data set."""

    def __init__(self, python: Path, data: Prepared, sizes: Sizes, threads: int, ffn: int | None):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.npz"
            chosen = np.random.default_rng(1).permutation(data.of_split("train"))[: sizes.peer_steps * BATCH]
            peers.write_rows(path, data, chosen)
            self.process = Peer(python, ["--rows", str(path)], threads)
            self.process.ask(
                do="build", network="BST", rate=RATE, seed=1, batch_size=BATCH, widths=PEER_WIDTHS, ffn=ffn
            )
        self._steps = sizes.peer_steps
        self.round()

    def round(self) -> float:
        """Seconds a step."""
        return float(self.process.ask(do="time", rows=0)["seconds"]) / self._steps


def take_turns(what: str, rounds: int, sides: Mapping[str, Any]) -> dict[str, list[float]]:
    """Seconds a step of each side, round by round."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    with tqdm(total=rounds * len(sides), desc=what, unit="round", delay=1, leave=False) as bar:
        for _ in range(rounds):
            for name, side in sides.items():
                bar.set_postfix_str(name, refresh=False)
                found[name].append(side.round())
                bar.update()
    return found


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


def measure(cache: Path, sizes: Sizes, python: Path | None, threads: int) -> dict[str, Any]:
    """All figures; `python` is that of the peers' environment. Raises NoRun."""
    long = data_set(cache, sizes.large, sizes.long)  # made before: the memory is that of training alone
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        figures = pool.submit(memory, long.folder, sizes.trained, threads).result()
    short = data_set(cache, sizes.small, sizes.impressions)
    ours = {sizes.small: Ours(short, sizes), sizes.large: Ours(long, sizes)}
    seconds: dict[str, list[float]] = {}
    for items, data in ((sizes.small, short), (sizes.large, long)):
        with ExitStack() as stack:
            sides: dict[str, Any] = {f"ours {items}": ours[items]}
            if python:
                for name, ffn in (("torch-rechub", None), ("torch-rechub, FFN 4d,", FFN_4D)):
                    sides[f"{name} {items}"] = theirs = Theirs(python, data, sizes, threads, ffn)
                    stack.enter_context(theirs.process)
            seconds |= take_turns(f"{items} items", sizes.rounds, sides)
    huge = Ours(data_set(cache, sizes.huge, sizes.impressions), sizes)
    grown = take_turns(f"{sizes.huge} items", 2 * sizes.rounds, {"small": ours[sizes.small], "huge": huge})
    figures["step_growth_100k_to_10m"] = ratio(grown["huge"], grown["small"]) - 1
    for label, items in (("100k", sizes.small), ("1m", sizes.large)):
        for key, name in ((f"ratio_{label}", "torch-rechub"), (f"ratio_{label}_ffn_4d", "torch-rechub, FFN 4d,")):
            figures[key] = ratio(seconds[f"{name} {items}"], seconds[f"ours {items}"]) if python else None
    step_ms = {name: 1000 * statistics.median(rounds) for name, rounds in seconds.items()}
    step_ms[f"ours {sizes.huge}"] = 1000 * statistics.median(grown["huge"])
    figures["rows_per_s"] = round(1000 * BATCH / step_ms[f"ours {sizes.large}"])
    return figures | {"step_ms": step_ms, "threads": threads, "machine": _machine()}


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """The median of the rounds' ratios: what slows a whole round down is in both of its times."""
    return statistics.median(one / other for one, other in zip(slower, faster, strict=True))


def _machine() -> str:
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}"


def table(figures: Mapping[str, Any]) -> str:
    """For people."""
    lines = [f"{'':<40} {'ms a step':>10} {'rows/s':>10}"]
    for name, step_ms in figures["step_ms"].items():
        side, items = name.rsplit(" ", 1)
        lines.append(f"{f'{side} {int(items):,} items':<40} {step_ms:>10.1f} {1000 * BATCH / step_ms:>10,.0f}")
    for key in ("ratio_100k", "ratio_1m", "ratio_100k_ffn_4d", "ratio_1m_ffn_4d"):
        if figures[key] is not None:
            lines.append(f"{key:<40} {figures[key]:>10.1f}")
    lines += [
        f"step growth to the largest table          {figures['step_growth_100k_to_10m']:>10.1%}",
        f"peak memory, GiB                         {figures['peak_gib']:>10.2f}",
        f"  of it anonymous                        {figures['peak_anonymous_gib']:>10.2f}",
        f"{figures['threads']} threads on each side; {figures['machine']}",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m loadtest.training", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--peers", action="store_true", help="install torch-rechub beside the project, and measure it")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works: no figures to quote")
    parser.add_argument("--steps", type=_positive, help=f"of the memory's run (default {Sizes.trained})")
    parser.add_argument("--threads", type=_positive, default=torch.get_num_threads(), help="of each side")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where the made-up data sets are kept")
    given = parser.parse_args(arguments)
    if given.cache.exists() and not given.cache.is_dir():
        parser.error(f"--cache {given.cache} is no folder")
    torch.set_num_threads(given.threads)
    try:
        python = peers.environment() if given.peers else None
        sizes = QUICK if given.quick else Sizes()
        sizes = replace(sizes, trained=given.steps or sizes.trained)
        figures = measure(given.cache, sizes, python, given.threads)
    except (NoRun, OSError) as error:
        print(f"training: {error}", file=sys.stderr)
        return 2
    print(table(figures))
    print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}))
    return 0


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}; integers of at least 1 are allowed")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
