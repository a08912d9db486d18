"""Tables in parts: the model of whole tables, checkpoints for any number of ranks, bundles, and ends of one line.

They need TorchRec: `make sharded` installs it and runs them.
"""

from pathlib import Path

import pytest
import torch

from model import networks
from model.prepared.loader import Prepared
from model.training.run import Run
from tests import sharded_ranks
from tests.processes import finished

pytest.importorskip("fbgemm_gpu", reason="no TorchRec here: make sharded installs it and runs these tests")
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def torchrun(ranks: int, *arguments: object) -> list[object]:
    return ["-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks, "-m", *arguments]


@pytest.fixture(scope="module")
def of_two_ranks(tiny_data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every network's weights, trained by two ranks."""
    out = tmp_path_factory.mktemp("ranks")
    done = finished(*torchrun(2, "tests.sharded_ranks", tiny_data.folder, out), **ONE_THREAD)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("network", networks.names())
def test_tables_in_parts_train_the_model_of_whole_tables(
    network: str, of_two_ranks: Path, tiny_data: Prepared, tmp_path: Path
) -> None:
    run = Run(tiny_data, network, sharded_ranks.recipe(network), 1, tmp_path / "whole.pt", device="cpu")
    began = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    run.fit()
    of_ranks = torch.load(of_two_ranks / f"{network}.pt", weights_only=True)
    whole = run.network.state_dict()
    assert of_ranks["tables"]
    for name in of_ranks["tables"]:
        assert not torch.equal(began[f"{name}.weight"], whole[f"{name}.weight"]), name
    assert list(of_ranks["network"]) == list(whole)
    for name, tensor in whole.items():
        torch.testing.assert_close(of_ranks["network"][name], tensor, atol=2e-5, rtol=1e-4, msg=name)
