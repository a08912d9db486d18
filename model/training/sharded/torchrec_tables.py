"""TorchRec's side: row-wise sharded EmbeddingCollections, whose rows Adagrad moves in the backward pass.

An EmbeddingCollection's tables are of one width, so there is one for each. FBGEMM steps a row once a backward pass,
by the sum of its gradients over all ranks: what torch.optim.Adagrad does, where a table is asked once a step.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed

from model.training.recipe import RecipeError

EPSILON = 1e-10  # torch.optim.Adagrad's, and lazy.LazyAdagrad's
HOW = "make sharded installs it (docs/training.md, Tables in parts)"


def check_installed() -> None:
    """Raises RecipeError where the extra is not there."""
    try:
        _imported()
    except (ImportError, OSError) as error:
        raise RecipeError(f"--shard-tables needs TorchRec, and it does not load ({error}); {HOW}") from None


def _imported() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of their own imports
        import torchrec
        import torchrec.distributed.embedding
    return torchrec


class Collection:
    """Tables of one width; `rows` by name. `weights` and `momenta` are this rank's blocks, and the true ones."""

    def __init__(self, rows: Mapping[str, int], width: int, rate: float, accumulator: float):
        torchrec = _imported()
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from torchrec.distributed import comm_ops
        from torchrec.distributed.embedding import EmbeddingCollectionSharder
        from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
        from torchrec.distributed.types import ShardingEnv

        comm_ops.set_gradient_division(False)  # a rank's loss is its share of the sum, not a mean
        size = distributed.get_world_size()
        configs = [
            torchrec.EmbeddingConfig(name=name, embedding_dim=width, num_embeddings=count, feature_names=[name])
            for name, count in rows.items()
        ]
        fused = {"optimizer": EmbOptimType.EXACT_ADAGRAD, "learning_rate": rate, "eps": EPSILON}
        sharder = EmbeddingCollectionSharder(fused_params=fused)
        whole = torchrec.EmbeddingCollection(tables=configs, device=torch.device("meta"))
        plan = construct_module_sharding_plan(
            whole,
            {name: row_wise(compute_kernel="fused") for name in rows},
            sharder=sharder,
            local_size=size,
            world_size=size,
            device_type="cpu",
        )
        environment = ShardingEnv.from_process_group(distributed.group.WORLD)
        with warnings.catch_warnings(), torch.random.fork_rng():  # it draws weights, which are thrown away
            warnings.simplefilter("ignore")
            self._sharded = sharder.shard(whole, plan, environment, device=torch.device("cpu"))
        self._keyed = torchrec.KeyedJaggedTensor
        self._kernels = [kernel for lookup in self._sharded._lookups for kernel in lookup._emb_modules]
        self.weights: dict[str, Tensor] = {}
        self.momenta: dict[str, Tensor] = {}
        for kernel in self._kernels:
            names = [table.name for table in kernel.config.embedding_tables]
            own = kernel.emb_module.split_embedding_weights()
            gathered = kernel.emb_module.split_optimizer_states()
            for name, weight, (momentum, *_) in zip(names, own, gathered, strict=True):
                self.weights[name], self.momenta[name] = weight.detach(), momentum.detach().view(weight.shape)
                self.momenta[name].fill_(accumulator)

    def pace(self, rate: float) -> None:
        for kernel in self._kernels:
            kernel.emb_module.set_learning_rate(rate)

    def fetch(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The rows (n,) of each table, wherever they lie: (n, width) each. All ranks call it together."""
        lengths = torch.tensor([len(ids) for ids in rows.values()], dtype=torch.int32)
        asked = self._keyed(keys=list(rows), values=torch.cat(list(rows.values())), lengths=lengths, stride=1)
        answer = self._sharded(asked)
        return {name: answer[name].values() for name in rows}
