"""A network in parts becomes a network of whole tables that stand in files: what rank 0 exports.

The parts come to rank 0 piece by piece and go into a file, and the file is mapped: the kernel reads what is looked up
and drops it again, so no process holds a whole table in memory of its own. The files lose their names once they are
mapped: none is left behind, whatever happens.
"""

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from model.features.ids import PAD
from model.networks.blocks import RankingNetwork
from model.training.sharded.exchange import Exchange
from model.training.sharded.table import Block, ShardedTable, pieces


def make_whole(network: RankingNetwork, exchange: Exchange, folder: Path) -> None:
    """Puts whole tables into rank 0's network; those of other ranks stay in parts. All ranks call it together."""
    exchange.detach()
    for name, table in exchange.tables.items():
        if distributed.get_rank():
            _send(table)
            continue
        weight = _received(table, folder)
        parent, _, own = name.rpartition(".")
        network.get_submodule(parent)._modules[own] = nn.Embedding(
            table.num_embeddings, table.embedding_dim, PAD, sparse=True, _weight=weight
        )
    distributed.barrier()


def _send(table: ShardedTable) -> None:
    for at, piece in pieces(len(table.block), table.embedding_dim):
        distributed.send(table.weight[at : at + piece, : table.embedding_dim].contiguous(), 0)


def _received(table: ShardedTable, folder: Path) -> Tensor:
    rows, width = table.num_embeddings, table.embedding_dim
    folder.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=".table-", dir=folder)
    try:
        with os.fdopen(number, "wb") as file:
            for rank in range(distributed.get_world_size()):
                block = Block(rows, rank, distributed.get_world_size())
                for at, piece in pieces(len(block), width):
                    part = table.weight[at : at + piece, :width].contiguous()
                    if rank:
                        part = torch.empty(piece, width)
                        distributed.recv(part, rank)
                    file.write(memoryview(part.numpy()).cast("B"))
        return torch.from_file(name, shared=True, size=rows * width).view(rows, width)
    finally:
        os.unlink(name)
