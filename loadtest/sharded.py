"""What each process holds of a table in parts, and what it sends: 10 million items × 64 over 4 processes.

    python -m loadtest.sharded [--ranks 4] [--items 10000000] [--width 64] [--steps 20] [--quick]

One table, asked for the same number of ids a step by each process as BST at the paper's batch (256 rows, 20 behaviours
and a candidate each), ids drawn by Zipf's law. Adagrad steps it in the backward pass. Then a checkpoint is written and
read back, and rank 0 puts the table together in a file, as an export does. Beside each process' peak stands what a
process with the whole table would hold: weights and Adagrad's sums. Seconds are the slowest process', of batches drawn
before and after a few steps that do not count, on a machine that does nothing else.
The last line is JSON. TorchRec: `make sharded`, then PYTHONPATH=.cache/sharded.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import distributed, nn

from loadtest.table import table
from model.networks import blocks
from model.networks.blocks import Batch, RankingNetwork
from model.training.parallel import World
from model.training.sharded import checkpoint
from model.training.sharded.exchange import Exchange
from model.training.sharded.run import peak_bytes
from model.training.sharded.table import ShardedTable, in_parts
from model.training.sharded.torchrec_tables import check_installed
from model.training.sharded.whole import make_whole

ROWS, LOOKS = 256, 21  # of a step, over all processes; each row's behaviours and candidate
WARM = 3  # steps that nothing is measured of
MIB = 2**20


class Network(RankingNetwork):
    def __init__(self, items: int, width: int):
        super().__init__()
        self.item, self.last = blocks.table(items, width), blocks.linear(width, 1)

    def forward(self, batch: Batch) -> torch.Tensor:
        logit: torch.Tensor = self.last(self.item(batch["history"]).mean(1))
        return logit


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.sharded", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=4, help="processes")
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="10,000 items, 3 steps: to see that it works")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.items, arguments.steps = 10_000, 3
    for name, least in (("ranks", 2), ("items", 1000), ("width", 1), ("steps", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name} {getattr(arguments, name)}, allowed: {least} and more")
    try:
        check_installed()
    except ValueError as error:
        print(f"loadtest.sharded: {error}", file=sys.stderr)
        return 1
    if "RANK" not in os.environ:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        options = sys.argv[1:] if argv is None else list(argv)
        return subprocess.run([*torchrun, str(arguments.ranks), "-m", "loadtest.sharded", *options]).returncode
    world = World()
    try:
        _measure(world, arguments)
    finally:
        world.close()
    return 0


def _measure(world: World, arguments: argparse.Namespace) -> None:
    rng, bare = np.random.default_rng(world.rank), peak_bytes()
    made: list[ShardedTable] = []
    torch.manual_seed(1)
    with blocks.tables_made_by(partial(in_parts, 1, made)):
        network = Network(arguments.items, arguments.width)
    exchange = Exchange(network, 0.01, 0.1, _batch(rng, 2, arguments.items))
    batches = [_batch(rng, ROWS // world.size, arguments.items) for _ in range(WARM + arguments.steps)]
    for batch in batches[:WARM]:
        network(batch).sum().backward()
    sent = exchange.bytes_sent
    distributed.barrier()
    begun = time.monotonic()
    for batch in batches[WARM:]:
        network(batch).sum().backward()
    slowest = torch.tensor([(time.monotonic() - begun) / arguments.steps])
    distributed.all_reduce(slowest, distributed.ReduceOp.MAX)
    a_step = (exchange.bytes_sent - sent) / arguments.steps
    trained = peak_bytes()
    with tempfile.TemporaryDirectory() as folder:
        named = [folder]
        distributed.broadcast_object_list(named, 0)
        home = Path(named[0])
        run = _Kept(network, exchange, world, home / "checkpoint.parts")
        checkpoint.save(run)
        size = sum(path.stat().st_size for path in run.checkpoint.iterdir())
        assert checkpoint.resume(run)
        kept = peak_bytes()
        make_whole(network, exchange, home)
        distributed.barrier()
    own = (bare, trained, kept, peak_bytes(), a_step)
    everyone: list[tuple[int, ...]] = [own] * world.size
    distributed.all_gather_object(everyone, own)
    if world.rank == 0:
        _report(everyone, arguments, float(slowest), size)


def _report(everyone: Sequence[tuple[int, ...]], arguments: argparse.Namespace, seconds: float, size: int) -> None:
    whole = 2 * 4 * arguments.items * arguments.width
    head = ("before", "trained", "checkpoint", "put together", "bytes a step")
    rows = {str(rank): [*(round(b / MIB) for b in four), round(s)] for rank, (*four, s) in enumerate(everyone)}
    print(table("rank, peak MiB", head, rows))
    print(f"a process with the whole table: {whole / MIB:,.0f} MiB more than before; checkpoint {size / MIB:,.0f} MiB")
    figures = {
        "items": arguments.items,
        "width": arguments.width,
        "ranks": len(everyone),
        "whole_mib": round(whole / MIB),
        "checkpoint_mib": round(size / MIB),
        "seconds_a_step": round(seconds, 4),
        "peak_mib": {
            name: [round(rank[at] / MIB) for rank in everyone]
            for at, name in enumerate(("before", "trained", "checkpoint", "put_together"))
        },
        "bytes_a_step": [round(rank[4]) for rank in everyone],
    }
    print(json.dumps(figures))


class _Kept(SimpleNamespace):
    """What a checkpoint is made of, of no run."""

    def __init__(self, network: nn.Module, exchange: Exchange, world: World, checkpoint: Path):
        optimiser = SimpleNamespace(state=list, load=lambda states: None)
        of_run = {"network": network, "exchange": exchange, "world": world, "checkpoint": checkpoint}
        super().__init__(**of_run, optimiser=optimiser, identity={}, progress={}, best={})


def _batch(rng: np.random.Generator, rows: int, items: int) -> dict[str, torch.Tensor]:
    drawn = (rng.zipf(1.2, (rows, LOOKS)) - 1) % (items - 2) + 2  # 0 and 1 are no items
    return {"history": torch.from_numpy(drawn)}


if __name__ == "__main__":
    sys.exit(main())
