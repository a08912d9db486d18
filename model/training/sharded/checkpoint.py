"""A sharded run's checkpoint: a folder that another number of ranks takes up.

    .metadata, __<rank>_<n>.distcp    parts of tables and of what Adagrad gathered: torch.distributed.checkpoint's
    whole.pt                          all the rest, the same on every rank
    files.json                        how many bytes each file has: a cut one is told by its name

All ranks see one file system. The folder is written beside and renamed into place.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from torch import Tensor, distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save as save_parts
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from model.files import replacing
from model.networks.blocks import RankingNetwork
from model.training.optimisers.optimiser import Optimiser
from model.training.parallel import World, is_lost
from model.training.recipe import RecipeError, completed
from model.training.sharded.exchange import Exchange

WHOLE, FILES = "whole.pt", "files.json"
FULL = 1 << 20  # bytes that are free on a disk that is as good as full


class Kept(Protocol):
    """What is kept of a run (run.py)."""

    network: RankingNetwork
    exchange: Exchange
    optimiser: Optimiser
    world: World
    checkpoint: Path
    progress: dict[str, Any]
    best: dict[str, Tensor]

    @property
    def identity(self) -> dict[str, Any]: ...


def save(run: Kept) -> None:
    """Writes the checkpoint; all ranks call it. Never one whose weights are no numbers.

    Raises OSError, on all ranks alike; RuntimeError where one of them is gone.
    """
    finite = torch.tensor([all(_finite(tensor) for tensor in run.network.state_dict().values())])
    distributed.all_reduce(finite, distributed.ReduceOp.PRODUCT)
    if not finite:
        return  # the next loss says so
    failed: list[str | None] = [None]
    try:
        with _folder(run.checkpoint) as folder:
            try:
                save_parts(_parts(run, run.best), checkpoint_id=folder)
            except CheckpointException as error:  # no Exception, and as many lines as ranks
                of_ranks = [of_rank for of_rank, _ in error.failures.values()]
                for of_rank in filter(is_lost, of_ranks):
                    raise RuntimeError(str(of_rank)) from None
                raise OSError(_reason(folder, *of_ranks)) from None
            if run.world.rank == 0:
                _save_whole(run, folder)
    except OSError as error:
        failed[0] = error.strerror or str(error)
    distributed.broadcast_object_list(failed, 0)
    if failed[0]:
        before = "the one before is whole: --resume goes on from it" if run.checkpoint.exists() else "there is none yet"
        raise OSError(f"{run.checkpoint} cannot be written: {failed[0]}; {before}")


def _save_whole(run: Kept, folder: Path) -> None:
    """What is the same on every rank, by one of them. Raises OSError."""
    names = set(_sharded_names(run))
    whole = {
        "identity": run.identity,
        "progress": run.progress,
        "network": _without(run.network.state_dict(), names),
        "best": _without(run.best, names),
        "optimiser": run.optimiser.state(),
        "random": torch.get_rng_state(),
    }
    try:
        torch.save(whole, folder / WHOLE)
    except RuntimeError as error:  # torch's writer has no OSError
        raise OSError(_reason(folder, error)) from None
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    (folder / FILES).write_text(json.dumps(sizes))


def _reason(folder: Path, *errors: BaseException) -> str:
    """Why torch could not write: it tells where in a file it stopped, and not that the disk is full."""
    if shutil.disk_usage(folder).free < FULL:
        return os.strerror(errno.ENOSPC)
    return next((text.splitlines()[0] for text in map(str, errors) if text), "torch does not say why")


def resume(run: Kept) -> bool:
    """Takes up the checkpoint where there is one, of however many ranks. Raises RecipeError, on all ranks alike."""
    if not run.checkpoint.exists():
        return False
    _check_files(run.checkpoint)
    try:
        content = torch.load(run.checkpoint / WHOLE, weights_only=True)
        same = completed(content["identity"]) == run.identity
    except (RuntimeError, UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise _unreadable(run.checkpoint, error) from None
    if not same:
        raise RecipeError(f"{run.checkpoint} belongs to a run with another recipe, seed or data; --restart drops it")
    best = {name: tensor.clone() for name, tensor in run.network.state_dict().items()} if content["best"] else {}
    try:
        load(_parts(run, best), checkpoint_id=run.checkpoint)
    except (CheckpointException, RuntimeError, EOFError, LookupError, ValueError, TypeError) as error:
        raise _unreadable(run.checkpoint, error) from None
    run.progress, run.best = content["progress"], best | content["best"]
    run.network.load_state_dict(content["network"], strict=False)  # the parts are there already
    run.optimiser.load(content["optimiser"])
    torch.set_rng_state(content["random"])
    return True


def _finite(tensor: Tensor) -> bool:
    """By the least and the greatest, which are NaN where one is: torch.isfinite makes a copy of a table."""
    return not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def _sharded_names(run: Kept) -> dict[str, str]:
    """Names of the parts in the network's state, and those of their tables."""
    return {f"{name}.weight": name for name in run.exchange.tables}


def _without(state: dict[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name not in names}


def _parts(run: Kept, best: dict[str, Tensor]) -> dict[str, DTensor]:
    """This rank's parts, told as blocks of the tables that they are of."""
    mesh = init_device_mesh("cpu", (run.world.size,))
    told = {}
    for key, name in _sharded_names(run).items():
        table = run.exchange.tables[name]
        shape = (table.num_embeddings, table.stored_width)
        own = {"weight": table.weight, "momentum": run.exchange.momenta[name], **({"best": best[key]} if best else {})}
        for what, tensor in own.items():
            told[f"{name}.{what}"] = DTensor.from_local(
                tensor, mesh, [Shard(0)], run_check=False, shape=shape, stride=(shape[1], 1)
            )
    return told


@contextmanager
def _folder(checkpoint: Path) -> Iterator[Path]:
    """A folder that all ranks write to, and that becomes the checkpoint when they have."""
    named: list[Any] = [None]
    if distributed.get_rank():
        distributed.broadcast_object_list(named, 0)
        if named[0] is None:
            raise OSError("rank 0 could not make its folder")
        yield Path(named[0])
        return
    try:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        with replacing(checkpoint) as partial:
            partial.mkdir()
            named[0] = str(partial)
            distributed.broadcast_object_list(named, 0)
            yield partial
    except OSError:
        if named[0] is None:
            distributed.broadcast_object_list(named, 0)  # the others wait for its name
        raise


def _check_files(folder: Path) -> None:
    try:
        sizes = json.loads((folder / FILES).read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from None
    for name, size in sizes.items():
        path = folder / name
        there = path.stat().st_size if path.exists() else None
        if there != size:
            what = "is missing" if there is None else f"has {there} bytes and had {size} when it was written"
            raise RecipeError(f"{path} {what}; --restart begins anew")


def _unreadable(path: Path, error: BaseException) -> RecipeError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return RecipeError(f"{path} cannot be read ({reason}); --restart begins anew")
