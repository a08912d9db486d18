"""What test_sharded.py runs under torchrun: every network, its tables in parts, trained to the end.

torchrun --nproc-per-node 2 -m tests.sharded_ranks DATA OUT
"""

import sys
from pathlib import Path

import torch

from model import networks
from model.prepared.loader import Prepared
from model.training.recipe import Recipe, Training
from model.training.sharded.run import ShardedRun

LEAST_ROWS = 8


def recipe(network: str) -> Recipe:
    """Without dropout, which ranks draw otherwise; the last batch has fewer rows; tables start anew on the way."""
    chosen = {"mlp": [16], "mlp_dropout": 0.0, "dropout": 0.0}
    how = Training(
        batch_size=700, epochs=2, evaluations=1, decay=0.5, fresh_tables=100, l2=0.01 if network == "bpr" else 0.0
    )
    return Recipe({name: value for name, value in chosen.items() if name in networks.options(network)}, how)


def main(data: Path, out: Path) -> None:
    for network in networks.names():
        run = ShardedRun(Prepared(data), network, recipe(network), 1, out / f".{network}.parts", least_rows=LEAST_ROWS)
        run.fit()
        if run.world.rank == 0:
            torch.save(
                {"network": run.network.state_dict(), "tables": list(run.exchange.tables)}, out / f"{network}.pt"
            )
        print(network, run.world.rank, run.exchange.bytes_sent / run.exchange.steps, flush=True)
    run.world.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
