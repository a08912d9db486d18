"""The graph that explains: a network's attention, beside the graph that serves and on the same tables.

    python -m model.export --bundle DIR --explain      # for a bundle made before; model.train adds it by itself

What is drawn is the network's own `attention`, not its scores, so that the graph is small: the sequence's tables are
the serving graph's bytes, and the head is not in it. The graph that serves is not touched, and computes nothing more.
It is held to torch's attention as scores are, to 1e-5, over all shapes that serving meets.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from model.bundle.attention import FACTS, OUTPUT, Facts
from model.bundle.layout import ATTENTION_GRAPH, GRAPH
from model.bundle.reading import Bundle
from model.features.batch import candidates, stacked
from model.files import beside, replacing
from model.graph.nodes import Span
from model.graph.write import TOLERANCE, ExportError, cases, draw_graph, widened
from model.networks.blocks import Batch, RankingNetwork
from model.training.batches import tensors

REQUESTS, CANDIDATES = 3, 5  # golden requests whose weights are recorded, and the candidates of each
MOST = 100  # candidates of a proof: POST /rank explains no more of one answer


def add_attention(bundle: Bundle, network: RankingNetwork) -> float | None:
    """Writes the graph into the bundle's folder: the largest difference to torch; None: it attends to nothing.

    The bundle's golden requests must be there. Raises ExportError, and leaves all as it was then.
    """
    network, example = network.eval(), widened(_example(bundle))
    with torch.no_grad():
        if network.attention(example) is None:
            return None
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / ATTENTION_GRAPH
        try:
            draw_graph(Attending(network), example, whole, OUTPUT)
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(f"attention of this network cannot be drawn as a graph: {error}") from error
        model = onnx.load(whole, load_external_data=False)
        _share(model, whole.parent, bundle.folder)
    onnx.helper.set_model_props(model, {FACTS: _facts(bundle, network).as_text()})
    path = bundle.folder / ATTENTION_GRAPH
    with beside(path) as candidate:
        onnx.save(model, candidate)
        difference = _parity(bundle, candidate, network)
        candidate.replace(path)
    return difference


def record_anew(bundle: Bundle) -> None:
    """Records the weights that the graph gives now: its tables are no longer those that torch's were computed with."""
    path, requests = bundle.folder / ATTENTION_GRAPH, bundle.golden()
    model, session = onnx.load(path, load_external_data=False), bundle.session(path)
    facts = Facts(**json.loads(next(told.value for told in model.metadata_props if told.key == FACTS)))
    inputs = [(number, bundle.encode_golden(requests[number]), len(weights)) for number, weights in facts.golden]
    golden = [(number, bundle.score(session, one, OUTPUT)[0, :count].tolist()) for number, one, count in inputs]
    onnx.helper.set_model_props(model, {FACTS: replace(facts, golden=golden).as_text()})
    with replacing(path) as newer:
        onnx.save(model, newer)


class Attending(nn.Module):
    """What is drawn."""

    def __init__(self, network: RankingNetwork):
        super().__init__()
        self.network = network
        self.eval()  # the exporter looks at the module that it is given

    def forward(self, batch: Batch) -> Tensor | None:
        return self.network.attention(batch)


def _example(bundle: Bundle) -> dict[str, Tensor]:
    """Two golden requests."""
    return tensors(stacked([bundle.encode_golden(request) for request in bundle.golden()[:2]]))


def _share(model: onnx.ModelProto, folder: Path, bundle: Path) -> None:
    """Points tensors to the serving graph's bytes where it has the same; takes the others, which are small, in."""
    theirs = [t for t in onnx.load(bundle / GRAPH, load_external_data=False).graph.initializer if t.external_data]
    for tensor in model.graph.initializer:
        if not tensor.external_data:
            continue
        own = Span.of(tensor).bytes(folder)
        like = (t for t in theirs if (t.dims, t.data_type) == (tensor.dims, tensor.data_type))
        same = next((t for t in like if np.array_equal(Span.of(t).bytes(bundle), own)), None)
        name = tensor.name
        tensor.CopyFrom(same or numpy_helper.from_array(numpy_helper.to_array(tensor, str(folder)), name))
        tensor.name = name


def _facts(bundle: Bundle, network: RankingNetwork) -> Facts:
    """What its weights are of, and torch's own for a few golden requests, of those with the longest histories."""
    requests = [bundle.encode_golden(request) for request in bundle.golden()]
    longest = sorted(range(len(requests)), key=lambda at: -requests[at]["gap"].shape[1])[:REQUESTS]
    golden = [(at, _weights(network, tensors(requests[at]))[0, :CANDIDATES].tolist()) for at in longest]
    inputs = requests[0]
    gaps = ["gap"]
    if "groups" not in network.unseen:
        gaps += [f"gap_{group.object_type}" for group in bundle.schema.groups]
    target = _weights(network, tensors(inputs)).shape[2] - sum(inputs[name].shape[1] for name in gaps)
    if target not in (0, 1):
        raise ExportError(f"attention gives {target:+} weights beside those of {', '.join(gaps)}; 0 or 1 is allowed")
    return Facts(len(gaps) > 1, bool(target), network.normalised, golden)


def _weights(network: RankingNetwork, batch: Batch) -> Tensor:
    with torch.no_grad():
        weights = network.attention(batch)
    assert weights is not None, "it gave some for another batch"
    return weights


def _parity(bundle: Bundle, graph: Path, network: RankingNetwork) -> float:
    """Largest difference between torch and onnxruntime; relative above 1. Raises ExportError above TOLERANCE."""
    session, worst = bundle.session(graph), 0.0
    for inputs in cases(bundle):
        if candidates(inputs) > MOST:
            continue
        expected = _weights(network, tensors(inputs)).numpy()
        answered = bundle.score(session, inputs, OUTPUT)
        shape = f"attention, U = {expected.shape[0]}, C = {expected.shape[1]}, T = {inputs['gap'].shape[1]}"
        if answered.shape != expected.shape or not (np.isfinite(answered).all() and np.isfinite(expected).all()):
            raise ExportError(f"{shape}: shape {answered.shape}, torch's {expected.shape}, or not finite")
        worst = max(worst, float((np.abs(answered - expected) / np.maximum(1, np.abs(expected))).max()))
        if worst > TOLERANCE:
            raise ExportError(f"{shape}: onnxruntime and torch differ by {worst:.1e}, at most {TOLERANCE} is allowed")
    return worst
