"""The graph that a network is exported as scores what the network scores. A file of its own: exports take seconds."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from model import networks
from model.features.ids import PAD
from model.graph.attention import Attending
from model.graph.write import draw_graph, write_graph
from tests.batches import ROWS, T, close, make_batch, make_schema, pick, strong
from tests.graphs import check_head, check_narrow

CONTROLS: list[tuple[str, dict[str, Any]]] = [
    ("bst", {"position": "sincos"}),
    ("din", {"position": "gap", "cross_layers": 2}),
    ("atrank", {"residual": True}),
]

# Without options, trained and on another log: tests/unit/test_merged.py; with weights that make a mistake show, here.
PLAIN = [pytest.param(name, {}, marks=pytest.mark.long) for name in networks.names()]
ATTENDING: list[tuple[str, dict[str, Any]]] = [("bst", {"blocks": 2})]  # of one block: tests/unit/test_merged.py


@pytest.mark.parametrize(("name", "options"), ATTENDING)
def test_onnxruntime_attends_as_torch_does_where_blocks_are_stacked(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = strong(networks.build(name, make_schema(), ROWS, options))
    draw_graph(Attending(network), make_batch(2, 3), tmp_path / "attention.onnx", "attention")
    session = onnxruntime.InferenceSession(tmp_path / "attention.onnx")
    for slots in (1, T, T + 5):
        for candidates in (1, 60):
            batch = make_batch(5, candidates, slots, seed=slots)
            with torch.no_grad():
                expected = network.attention(batch)
            assert expected is not None
            feed = {node.name: batch[node.name].numpy() for node in session.get_inputs()}
            weights = torch.from_numpy(session.run(["attention"], feed)[0])
            close(weights, expected)
            assert not weights[..., :-1][(batch["gap"] == PAD).unsqueeze(1).expand(-1, candidates, -1)].any()
            close(weights.sum(-1), torch.ones(5, candidates))


@pytest.mark.parametrize(
    ("name", "options"),
    [*PLAIN, *CONTROLS],
    ids=lambda part: "-".join(map(str, part.values())) if isinstance(part, dict) else part,
)
def test_onnxruntime_scores_as_torch_whatever_the_shapes(
    name: str, options: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    network = strong(networks.build(name, make_schema(), ROWS, options))
    write_graph(network, make_batch(2, 3), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    check_head(network, tmp_path / "model.onnx")
    for slots in (1, 4, T, T + 5):
        for candidates in (1, 2, 60):
            several = make_batch(5, candidates, slots, seed=slots)
            for batch in (several, pick(several, 0), pick(several, 4)):  # the first user is new
                with torch.no_grad():
                    expected = torch.sigmoid(network(batch))
                feed = {node.name: batch[node.name].numpy() for node in session.get_inputs()}
                close(torch.from_numpy(session.run(["score"], feed)[0]), expected)
    check_narrow(network, tmp_path, tmp_path, feed, expected)
    assert "Expected shape" not in capfd.readouterr().err, "onnxruntime met a shape that the export took for constant"
