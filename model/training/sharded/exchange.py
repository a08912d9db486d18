"""What a network looks up in its tables in parts, fetched for a whole batch before the network reads it.

A table that is asked twice a step (candidate, history) must be stepped once, by the sum of the gradients, so its rows
are fetched in one go: each once, and none for padding, which is 0. Which columns of a batch a table is asked for the
network shows on a few rows of the log at the start, and it must ask for the same ones ever after.
"""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn

from model.features.ids import PAD
from model.networks.blocks import Batch
from model.training.recipe import RecipeError
from model.training.sharded.table import ShardedTable
from model.training.sharded.torchrec_tables import Collection

ID_BYTES, NUMBER_BYTES = 8, 4


class Column(NamedTuple):
    """Where the rows that a table is asked for stand in a batch."""

    input: str
    place: int | slice

    def of(self, batch: Batch) -> Tensor:
        return batch[self.input][..., self.place]


class Exchange:
    """The tables of one network. `bytes_sent`: ids, rows and gradients that this rank gave to others while training."""

    def __init__(self, network: nn.Module, rate: float, accumulator: float, example: Batch):
        self.tables = {name: part for name, part in network.named_modules() if isinstance(part, ShardedTable)}
        self.columns = _columns(network, self.tables, example)
        self.bytes_sent = self.steps = 0
        by_width: dict[int, list[str]] = defaultdict(list)
        for name, table in self.tables.items():
            by_width[table.stored_width].append(name)
        self._collections: list[Collection] = []
        self.momenta: dict[str, Tensor] = {}
        for width, names in by_width.items():
            rows = {_plain(name): self.tables[name].num_embeddings for name in names}
            collection = Collection(rows, width, rate, accumulator)
            self._collections.append(collection)
            for name in names:
                self.tables[name].adopt(collection.weights[_plain(name)])
                self.momenta[name] = collection.momenta[_plain(name)]
        self._names = list(by_width.values())
        self._accumulator = accumulator
        self._hook = network.register_forward_pre_hook(self._before)

    def detach(self) -> None:
        """The network is asked no more."""
        self._hook.remove()

    def pace(self, rate: float) -> None:
        for collection in self._collections:
            collection.pace(rate)

    def forget(self, table: ShardedTable) -> None:
        """Drops what was gathered about a table that starts anew."""
        next(self.momenta[name] for name, one in self.tables.items() if one is table).fill_(self._accumulator)

    def _before(self, network: nn.Module, arguments: tuple[Any, ...]) -> None:
        batch = arguments[0]
        for collection, names in zip(self._collections, self._names, strict=True):
            asked = {name: _Asked(self.columns[name], batch) for name in names}
            answer = collection.fetch({_plain(name): one.rows for name, one in asked.items()})
            for name, one in asked.items():
                self.tables[name].answers = deque(one.answers(answer[_plain(name)], self.tables[name].embedding_dim))
            if network.training:
                self._count({name: one.rows for name, one in asked.items()})
        self.steps += network.training

    def _count(self, rows: Mapping[str, Tensor]) -> None:
        rank = distributed.get_rank()
        for name, ids in rows.items():
            table = self.tables[name]
            away = int((ids // table.block.height != rank).sum())
            self.bytes_sent += away * (ID_BYTES + 2 * NUMBER_BYTES * table.stored_width)


class _Asked:
    """What one batch asks of one table: `rows`, each once."""

    def __init__(self, columns: Sequence[Column], batch: Batch):
        looked = [column.of(batch) for column in columns]
        self._shapes = [rows.shape for rows in looked]
        ids, self._place = torch.unique(torch.cat([rows.reshape(-1) for rows in looked]), return_inverse=True)
        padded = int(len(ids) > 0 and ids[0] == PAD)
        self.rows, self._place = ids[padded:], self._place + 1 - padded  # place 0 is padding's

    def answers(self, weight_ND: Tensor, width: int) -> list[Tensor]:
        """One answer for each look, in order; (…, width)."""
        weight_ND = torch.cat([weight_ND.new_zeros(1, weight_ND.shape[1]), weight_ND])[:, :width]
        parts = weight_ND.index_select(0, self._place).split([shape.numel() for shape in self._shapes])
        return [part.view(*shape, width) for part, shape in zip(parts, self._shapes, strict=True)]


def _plain(name: str) -> str:
    """TorchRec makes a module of each table, and a module's name has no dots."""
    return name.replace(".", "/")


def _columns(network: nn.Module, tables: Mapping[str, ShardedTable], batch: Batch) -> dict[str, list[Column]]:
    """The columns of a batch that each table is asked for, in order. Raises RecipeError for rows that are no column."""
    for table in tables.values():
        table.noted = []
    training = network.training
    network.eval()
    with torch.no_grad():
        network(batch)
    network.train(training)
    columns = {}
    for name, table in tables.items():
        columns[name] = [_column(name, rows, batch) for rows in table.noted or ()]
        table.noted = None
    return columns


def _column(table: str, rows: Tensor, batch: Batch) -> Column:
    for name, tensor in batch.items():
        if tensor.untyped_storage().data_ptr() != rows.untyped_storage().data_ptr():
            continue
        first = rows.storage_offset() - tensor.storage_offset()
        place = first if rows.dim() < tensor.dim() else slice(first, first + rows.shape[-1])
        column = Column(name, place)
        if 0 <= first < tensor.shape[-1] and column.of(batch).shape == rows.shape:
            return column
    raise RecipeError(
        f"--shard-tables: this network asks its table {table} for rows that are no column of its input, so they cannot "
        "be fetched before; train it without --shard-tables"
    )
