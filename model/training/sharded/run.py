"""A training run whose large tables lie in parts on all ranks.

The steps are those of `Run` on several processes; Adagrad moves the parts in the backward pass. What is kept of a run
is a folder (checkpoint.py), and its export is rank 0's, from tables that stand in files (whole.py).
"""

import resource
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import distributed
from torch._C._distributed_c10d import HashStore

from model import networks
from model.training.batches import tensors
from model.training.parallel import World
from model.training.recipe import RecipeError, Training
from model.training.run import Run
from model.training.sharded import checkpoint as kept
from model.training.sharded.exchange import Exchange
from model.training.sharded.table import ShardedTable, check_some, in_parts
from model.training.sharded.torchrec_tables import check_installed
from model.training.sharded.whole import make_whole

LEAST_ROWS = 1024  # tables of fewer ids stay whole on every rank: a look into them costs no exchange


class ShardedRun(Run):
    """`Run` with tables of ids from `least_rows` rows on in parts. Every rank makes one, and all call its methods."""

    def __init__(self, *arguments: Any, least_rows: int = LEAST_ROWS, **named: Any):
        check_installed()
        if World().size == 1 and not distributed.is_initialized():  # it has all the parts
            distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        self.least_rows = least_rows
        if named.get("warm"):
            raise RecipeError("--warm with --shard-tables: a warm start reads whole tables; train without one of them")
        super().__init__(*arguments, **{**named, "device": named.get("device") or "cpu"})

    def _build(self) -> None:
        pairs = networks.network_type(self.name).objective == "pairs"
        check_recipe(self.how, pairs, self.device)
        self._made: list[ShardedTable] = []
        super()._build()
        check_some(self._made, self.name, self.least_rows)
        rows = self.data.of_split("train")[:2]
        example = tensors(self.data.batch(rows))
        self.exchange = Exchange(self.network, self.how.learning_rate, self.how.accumulator, example)

    def make_table(self, rows: int, width: int, silent: Sequence[int]) -> torch.nn.Module:
        """In parts, where it is of ids and long enough."""
        return in_parts(self.least_rows, self._made, rows, width, silent)

    @property
    def identity(self) -> dict[str, Any]:
        return super().identity | {"least_rows": self.least_rows}

    @property
    def tables(self) -> list[torch.Tensor]:
        return [*super().tables, *(table.weight for table in self.exchange.tables.values())]

    def step(self, *arguments: Any) -> torch.Tensor:
        self.exchange.pace(self.optimiser.rate)
        return super().step(*arguments)

    def start_anew(self, table: torch.nn.Module) -> None:
        if isinstance(table, ShardedTable):
            table.start()
            self.exchange.forget(table)
        else:
            super().start_anew(table)

    def due(self, saved: float) -> bool:
        """As rank 0 says: all ranks write their parts at the same batch."""
        due = torch.tensor([time.monotonic() - saved > self.how.checkpoint_s])
        distributed.broadcast(due, 0)
        return bool(due)

    def save(self) -> None:
        if not self.fitted:  # then the last one is there, and other ranks have gone
            kept.save(self)

    def resume(self) -> bool:
        return kept.resume(self)

    def fit(self) -> None:
        super().fit()
        self.fitted = False
        self.save()
        self.fitted = True
        self.dense_bytes = sum(parameter.numel() * parameter.element_size() for parameter in self.network.parameters())
        make_whole(self.network, self.exchange, self.checkpoint.parent)

    def lines(self) -> list[str]:
        """For people: what each rank held and sent. All ranks call it together."""
        rows = sum(table.num_embeddings for table in self.exchange.tables.values())
        held = sum(len(table.block) for table in self.exchange.tables.values())
        steps = max(1, self.exchange.steps)
        own = (held, peak_bytes(), self.exchange.bytes_sent / steps)
        everyone: list[Any] = [None] * self.world.size
        distributed.all_gather_object(everyone, own)
        return [
            f"rank {rank}: {held:,} of {rows:,} table rows in parts, peak memory {peak / 2**20:,.0f} MiB, "
            f"{sent:,.0f} bytes a step of ids, rows and their gradients from and to other ranks; beside them "
            f"{self.dense_bytes:,} bytes of dense gradients are added up"
            for rank, (held, peak, sent) in enumerate(everyone)
        ]

    def fit_final(self) -> None:
        raise RecipeError("--final with --shard-tables is not there: train on all days by a prepared set of its own")


def peak_bytes() -> int:
    """The most memory that this process has had resident; Linux counts KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check_recipe(how: Training, pairs: bool, device: torch.device) -> None:
    """Raises RecipeError for what FBGEMM's CPU kernels do not step as our own optimisers do."""
    if how.optimiser != "adagrad":
        raise RecipeError(
            f"[training] optimiser {how.optimiser!r} with --shard-tables, allowed: 'adagrad' (--recipe): FBGEMM "
            "steps tables in parts, and on the CPU it has no Adam"
        )
    refused = {"l2": 0.0 if pairs else how.l2}  # of pairs it is in the loss
    refused |= {name: getattr(how, name) for name in ("average", "batch_l2", "table_deviation")}
    for name, value in refused.items():
        if value:
            raise RecipeError(f"[training] {name} {value} with --shard-tables, allowed: 0")
    if device.type != "cpu":
        raise RecipeError(f"--device {device.type} with --shard-tables, allowed: cpu")
