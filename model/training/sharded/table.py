"""A table in parts, in a network where an nn.Embedding would stand. This rank holds one block of its rows.

A table starts with the numbers of a whole one: every rank draws what `blocks.embedding` draws, piece by piece, and
keeps its own rows.
"""

from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, distributed, nn

from model.features.ids import UNKNOWN
from model.networks.blocks import embedding
from model.training.recipe import RecipeError

PIECE = 1 << 20  # numbers that are drawn, or sent, at once
MULTIPLE = 4  # FBGEMM's rows are so wide; what a row has beyond its width is 0 and stays 0


class Block:
    """The rows `begin` … `end` of a table that a rank holds: TorchRec's row-wise blocks, and DTensor's."""

    def __init__(self, rows: int, rank: int, size: int):
        self.height = -(-rows // size)
        self.begin = min(rank * self.height, rows)
        self.end = min(self.begin + self.height, rows)

    def __len__(self) -> int:
        return self.end - self.begin


class ShardedTable(nn.Module):
    """Answers rows as nn.Embedding does, once its `Exchange` has fetched them. `weight`: this rank's block."""

    weight: Tensor

    def __init__(self, rows: int, width: int, silent: Sequence[int]):
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.silent = rows, width, tuple(silent)
        self.stored_width = -(-width // MULTIPLE) * MULTIPLE
        self.block = Block(rows, distributed.get_rank(), distributed.get_world_size())
        self.register_buffer("weight", torch.empty(0, self.stored_width))
        _draw_normal(rows * width)
        self._drawn_from = torch.get_rng_state()
        self.start()  # draws, and keeps nothing: the next table's numbers come after these
        self.noted: list[Tensor] | None = None  # rows asked for while the exchange learns what is looked up
        self.answers: deque[Tensor] = deque()

    def adopt(self, weight: Tensor) -> None:
        """From now on this is the block: it gets the numbers that the table was drawn with.

        They are drawn once more, so that a block is not held twice.
        """
        self.weight = weight.zero_()
        with torch.random.fork_rng():
            torch.set_rng_state(self._drawn_from)
            self.start()

    def start(self) -> None:
        """As blocks.start."""
        bound = (6 / (self.num_embeddings + self.embedding_dim)) ** 0.5
        for at, piece in pieces(self.num_embeddings, self.embedding_dim):
            drawn = torch.empty(piece, self.embedding_dim).uniform_(-bound, bound)
            first, last = max(at, self.block.begin), min(at + piece, self.block.end)
            if first < last and len(self.weight):
                own = slice(first - self.block.begin, last - self.block.begin)
                self.weight[own, : self.embedding_dim] = drawn[first - at : last - at]
        for row in self.silent:
            if self.block.begin <= row < self.block.end and len(self.weight):
                self.weight[row - self.block.begin] = 0

    def forward(self, rows: Tensor) -> Tensor:
        if self.noted is not None:
            self.noted.append(rows)
            return torch.zeros(*rows.shape, self.embedding_dim)
        return self.answers.popleft()


def pieces(rows: int, width: int) -> Iterator[tuple[int, int]]:
    """(first row, number of rows) of the pieces that a table is gone through by."""
    height = max(1, PIECE // width)
    for at in range(0, rows, height):
        yield at, min(height, rows - at)


def _draw_normal(numbers: int) -> None:
    """Moves torch's generator on as normal_ of so many numbers does, which nn.Embedding calls; ATen's normal_fill."""
    for at in range(0, numbers, PIECE):
        torch.empty(min(PIECE, numbers - at)).uniform_()
    if numbers % 16:
        torch.empty(16).uniform_()


def in_parts(least_rows: int, made: list[ShardedTable], rows: int, width: int, silent: Sequence[int]) -> nn.Module:
    """A table: of ids and from `least_rows` rows on in parts, and noted in `made`; else whole."""
    size = distributed.get_world_size()
    if UNKNOWN not in silent or rows < least_rows or not len(Block(rows, size - 1, size)):
        return embedding(rows, width, silent)
    made.append(ShardedTable(rows, width, silent))
    return made[-1]


def check_some(made: Sequence[ShardedTable], name: str, least_rows: int) -> None:
    if not made:
        raise RecipeError(f"--shard-tables {least_rows}: {name} has no table of ids with so many rows here")
