"""Data-parallel training on one machine: `torchrun --nproc-per-node 2 -m model.train …`.

Every process holds the whole network and takes its share of each batch; gradients are summed, so that all take the
step that one process would take (to float tolerance, and with dropout 0: the processes draw different masks). Sparse
gradients stay sparse on the way. The processes talk by gloo, which is what can add sparse tensors.
"""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed, nn


class RankLost(Exception):
    """The processes that train together are not all there any more."""


def is_lost(error: BaseException) -> bool:
    """Whether it says that another process is gone."""
    return "gloo" in str(error) or isinstance(error, distributed.DistError)


class World:
    """The processes that train together: `rank` of `size`; one of one without torchrun."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.size > 1 and not distributed.is_initialized():
            distributed.init_process_group("gloo")

    def share(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """This process' part of a batch; empty where there are fewer rows than processes."""
        return rows[self.rank :: self.size]

    def even_share(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """As `share`, as long for every process: a row more where it would be shorter. `joined` drops it again."""
        share = self.share(rows)
        return np.concatenate([share, rows[:1]]) if len(share) < -(-len(rows) // self.size) else share

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Raises ValueError where another process trains by something else."""
        if self.size == 1:
            return
        everyone: list[Any] = [None] * self.size
        distributed.all_gather_object(everyone, dict(facts))
        for rank, theirs in enumerate(everyone):
            for name in {**everyone[0], **theirs}:
                first, other = everyone[0].get(name), theirs.get(name)
                if first != other:
                    raise ValueError(
                        f"ranks disagree on {name}: rank 0 has {_short(first)}, rank {rank} {_short(other)}; all must "
                        "train the same"
                    )

    def sum_gradients(self, network: nn.Module) -> None:
        if self.size == 1:
            return
        for parameter in network.parameters():
            if parameter.grad is not None:
                if parameter.grad.is_sparse:
                    parameter.grad = parameter.grad.coalesce()
                distributed.all_reduce(parameter.grad)

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of every process' value."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def joined(self, part: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
        """All processes' shares of `rows` values, put together in the rows' order."""
        if self.size == 1:
            return part
        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, part)
        whole = np.empty(rows, part.dtype)
        for rank, values in enumerate(parts):
            places = whole[rank :: self.size]
            places[:] = values[: len(places)]
        return whole

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raises RankLost where another process ends meanwhile, or torchrun ends this one since another has ended."""
        if self.size == 1:
            yield
            return

        def ends(number: int, frame: Any) -> None:
            raise RankLost("torchrun ends this one, since another rank has ended or it was told to")

        before = signal.signal(signal.SIGTERM, ends)
        try:
            yield
        except RuntimeError as error:
            if not is_lost(error):
                raise
            reason = str(error).strip().splitlines()[-1].rpartition("] ")[2] or "gone"
            raise RankLost(f"another rank has ended ({_short(reason)})") from None
        finally:
            signal.signal(signal.SIGTERM, before)

    def close(self) -> None:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
