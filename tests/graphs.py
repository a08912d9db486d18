"""What is asked of the graph of every network, beside that it scores as torch does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import nn

from model.graph.tables import narrow_graphs
from model.networks.blocks import RankingNetwork
from tests.batches import close

NEARLY = {"fp16": 1e-3, "int8": 0.05}  # how far a score may be off on such tables


def check_head(network: RankingNetwork, graph: Path) -> None:
    weights = [tensor.name for tensor in onnx.load(graph, load_external_data=False).graph.initializer]
    of_head = [weight for weight in weights if weight.startswith(f"network.{network.head_name}.")]
    assert of_head or network.head_name is None, "int8 finds the head's layers by these names"


def check_narrow(
    network: RankingNetwork, folder: Path, out: Path, feed: Mapping[str, Any], expected: torch.Tensor
) -> None:
    """The graph of `folder` scores nearly as `expected` on all tables in fp16 and in int8."""
    for form, apart in NEARLY.items():
        (out / form).mkdir(parents=True)
        tables = narrow_graphs(folder, out / form, form, least_rows=1)
        looked_up = [part.weight.numel() for part in network.modules() if isinstance(part, nn.Embedding)]
        left_out = sum(looked_up) - sum(table.rows * table.width for table in tables)
        assert 0 <= left_out < max(looked_up) / 2, "more than the few bytes that stand in the graph itself"
        smaller = onnxruntime.InferenceSession(out / form / "model.onnx")
        close(torch.from_numpy(smaller.run(["score"], dict(feed))[0]), expected, apart)
