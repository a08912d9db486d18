"""int8: a second graph beside the fp32 one, whose MLP multiplies bytes. Put into the bundle only if it ranks as well.

    python -m model.export --bundle DIR --quantize

The MLP of the head is where the arithmetic is (500 candidates, the paper's sizes: nine tenths), so its layers alone are
quantised, statically; tables, attention and the last layer's one output stay fp32, and the tables' bytes are shared
with the fp32 graph. Weights: 8 bits signed, a scale for each output. Activations: 8 bits unsigned, a scale for each
*input*, from calibration on requests of the training days. Such a scale costs nothing at run time: that of a hidden
unit is taken out of the layer before (an activation like LeakyReLU lets a positive factor through), that of the
candidate's features is one product. One scale for all of a layer's inputs, the usual way, falls short: where it kept
Kendall's tau at 0.981, a scale each keeps it at 0.994 (model/LOG.md, 2026-11-21). What rounding shifts on average is
put right in the bias.

Calibration holds every value of the context, and impressions beside requests: what it does not hold is cut off where a
layer's inputs end. Without, KuaiRand's rarest tabs shifted by 0.02 and the highest scores by up to 0.07
(model/LOG.md, 2026-11-27). The gate is gate.py's.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from tqdm import tqdm

from model.bundle.layout import GRAPH, INT8, INT8_GRAPH, REPORT
from model.bundle.reading import Bundle
from model.bundle.writing import amend
from model.features.encode import Inputs
from model.files import beside
from model.graph.gate import LISTS, Bounds, drawn, judge, lists
from model.graph.merged import served
from model.graph.nodes import Made, replaced
from model.graph.segments import by_context
from model.graph.trained import network_of
from model.graph.write import example_batch, write_graph
from model.networks.blocks import RankingNetwork
from model.prepared.loader import Prepared, batches

LOOKED_THROUGH = 1_000_000  # impressions among which rare contexts are looked for
REQUESTS_EACH = 4  # of every value of the context
SHOWN, AT_ONCE = 20_000, 1_000  # impressions as they were: items drawn at random seldom get the highest scores
ROOM = 1.25  # of what was seen: a user of extreme numbers goes beyond it, in several columns at once
NARROW = 32  # a layer of fewer outputs stays fp32
HOMOGENEOUS = ("LeakyRelu", "Relu")  # f(a·x) = a·f(x) for a > 0
ZERO_SIGNED, ZERO_ACTIVATED = 128, 8  # zero points: of the candidate's features, of what an activation let through
CONTRIB = "com.microsoft"  # onnxruntime's own operators
Floats = npt.NDArray[np.float32]


class QuantizeError(ValueError):
    """A bundle that cannot be quantised; says why."""


@dataclass
class Layer:
    """One product of the head, and what calibration saw of its input: K columns in, N out."""

    node: onnx.NodeProto
    weight_KN: Floats
    bias_N: Floats  # zeros where a user's share is added later
    activated: bool  # the input is the HOMOGENEOUS activation of the layer before
    low_K: Floats
    high_K: Floats
    mean_K: Floats

    @property
    def zero(self) -> int:
        return ZERO_ACTIVATED if self.activated else ZERO_SIGNED

    @property
    def step_K(self) -> Floats:
        """What one step of each input is worth: ROOM times what was seen fits into 0…255 around the zero point."""
        step = ROOM * np.maximum(self.high_K / (255 - self.zero), -self.low_K / self.zero)
        return np.maximum(step, max(1e-12, 1e-3 * float(step.max()))).astype(np.float32)


def quantize(bundle: Bundle, data: Prepared, bounds: Bounds | None = None) -> dict[str, Any]:
    """Adds the int8 graph to the bundle if it passes the gate; the figures are in its report either way.

    Raises QuantizeError, NoWeights, BundleError.
    """
    if bundle.manifest["objective"] != "click":
        raise QuantizeError(f"objective {bundle.manifest['objective']!r}: the gate is an AUC, of clicks alone")
    path = bundle.folder / INT8_GRAPH
    with beside(path) as candidate:
        with TemporaryDirectory() as folder:
            onnx.save(_graph(bundle, data, Path(folder)), candidate)
        figures = judge(bundle, data, candidate, bounds)
        if figures["accepted"]:
            candidate.replace(path)
        else:
            path.unlink(missing_ok=True)
    report = json.loads((bundle.folder / REPORT).read_text()) | {INT8: figures}
    amend(bundle, {REPORT: report}, {INT8: figures}, [INT8_GRAPH])
    return figures


def _graph(bundle: Bundle, data: Prepared, folder: Path) -> onnx.ModelProto:
    """The int8 graph, made in `folder`; what it leaves in fp32 it shares with the bundle's fp32 graph."""
    whole = folder / GRAPH
    network = network_of(bundle)
    write_graph(network, example_batch(data.seen_by(bundle.schema)), whole, form=partial(served, halves=False))
    model = onnx.load(whole, load_external_data=False)
    nodes = _head(model, network)
    if not nodes:
        raise QuantizeError(f"{bundle.folder}: its network has no wide layer of an MLP to quantise")
    layers = _calibrated(bundle, model, whole, nodes, calibration(bundle, data))
    products = {}
    for layer in layers:
        products[layer.node.output[0]] = _product(layer, _after(model, layers, layer))
    quantised = replaced(model, products)
    quantised.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    _share(quantised, onnx.load(bundle.folder / GRAPH, load_external_data=False), folder)
    return quantised


def calibration(bundle: Bundle, data: Prepared) -> Iterator[Inputs]:
    """Requests of the days it was trained on drawn from all, and of every value of the context some; then impressions.

    What neither holds may be out of the range of a layer's inputs that was seen, and is cut off there: a rare context,
    of which few or none are among requests drawn from all, and the item that suits a user best.
    """
    draw = np.random.default_rng(1)
    trained_on = [data.of_split(split) for split in bundle.manifest.get("trained_on", ["train"])]
    rows = np.sort(np.concatenate(trained_on))
    looked_through = np.sort(drawn(rows, LOOKED_THROUGH, draw))
    rare = [drawn(segment.rows, REQUESTS_EACH, draw) for segment in by_context(data, looked_through)]
    yield from lists(bundle, data, np.unique(np.concatenate([drawn(rows, LISTS, draw), *rare])), draw)
    shown = batches(data.seen_by(bundle.schema), np.sort(drawn(rows, SHOWN, draw)), AT_ONCE)
    yield from (inputs for _, inputs in shown)


def _share(quantised: onnx.ModelProto, fp32: onnx.ModelProto, folder: Path) -> None:
    """Points tensors to the bytes of the fp32 graph's where it has the same ones; takes the others in."""
    theirs = {tensor.name: tensor for tensor in fp32.graph.initializer if tensor.external_data}
    for tensor in quantised.graph.initializer:
        if not tensor.external_data:
            continue
        same = theirs.get(tensor.name)
        if same is not None and (same.dims, same.data_type) == (tensor.dims, tensor.data_type):
            tensor.CopyFrom(same)
        else:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor, str(folder)), tensor.name))


def _head(model: onnx.ModelProto, network: RankingNetwork) -> list[onnx.NodeProto]:
    """The wide layers of the network's head on the candidates' way, in order; the exporter keeps weights' names."""
    head = f"network.{network.head_name}."
    sizes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return [
        node
        for node in model.graph.node
        if node.op_type == "Gemm"
        and node.input[1].startswith(head)
        and not node.input[1].startswith(f"{head}of_user")
        and min(sizes[node.input[1]]) >= NARROW
    ]


def _calibrated(
    bundle: Bundle, model: onnx.ModelProto, path: Path, nodes: Sequence[onnx.NodeProto], requests: Iterable[Inputs]
) -> list[Layer]:
    """The layers with what their inputs hold, by the fp32 graph at `path` with these tensors among its outputs."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [node.input[0] for node in nodes]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    onnx.save(watched, path)
    session = bundle.session(path)
    extremes: list[list[Floats]] = [[] for _ in names]  # lowest, highest, mean of every column, request by request
    for inputs in tqdm(requests, "calibrating", unit="request", delay=1, leave=False):
        feed = {node.name: inputs[node.name] for node in session.get_inputs()}
        for of_layer, rows_BK in zip(extremes, session.run(names, feed), strict=True):
            of_layer.append(np.stack([rows_BK.min(0), rows_BK.max(0), rows_BK.mean(0)]))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}

    def values(name: str) -> Floats:
        return numpy_helper.to_array(weights[name], str(path.parent)).astype(np.float32)

    made_by = {name: node for node in model.graph.node for name in node.output}
    layers = []
    for number, (node, of_layer) in enumerate(zip(nodes, extremes, strict=True)):
        weight_KN = np.ascontiguousarray(values(node.input[1]).T)  # Gemm has transB
        before = made_by.get(node.input[0])
        low_K, high_K, mean_K = np.stack(of_layer).transpose(1, 0, 2)
        layers.append(
            Layer(
                node,
                weight_KN,
                values(node.input[2]) if len(node.input) > 2 else np.zeros(weight_KN.shape[1], np.float32),
                number > 0 and before is not None and before.op_type in HOMOGENEOUS,
                low_K.min(0),
                high_K.max(0),
                mean_K.mean(0),
            )
        )
    return layers


def _product(layer: Layer, after: Layer | None) -> Made:
    """Nodes and initializers that take the layer's place; its output comes out in steps of the layer after."""
    name, step_K = layer.node.output[0], layer.step_K
    out_N = after.step_K if after else np.ones(layer.weight_KN.shape[1], np.float32)
    scaled_KN = layer.weight_KN * step_K[:, None]
    step_N = np.maximum(np.abs(scaled_KN).max(0), 1e-12) / 127
    rounded_KN = np.round(scaled_KN / step_N)
    shift_N = layer.mean_K @ (layer.weight_KN - rounded_KN * step_N / step_K[:, None])
    tensors = {
        "one": np.float32(1),
        "zero": np.uint8(layer.zero),
        "weight": rounded_KN.astype(np.int8),
        "step": (step_N / out_N).astype(np.float32),
        "bias": ((layer.bias_N + shift_N) / out_N).astype(np.float32),
        "per_step": (1 / step_K).astype(np.float32),
    }
    names = {key: f"{name}.int8.{key}" for key in tensors}
    nodes, source = [], layer.node.input[0]
    if not layer.activated:
        nodes.append(helper.make_node("Mul", [source, names["per_step"]], [f"{name}.int8.scaled"]))
        source = f"{name}.int8.scaled"
    nodes.append(helper.make_node("QuantizeLinear", [source, names["one"], names["zero"]], [f"{name}.int8.input"]))
    factors = [f"{name}.int8.input", names["weight"], names["one"], names["step"], names["zero"], "", names["bias"]]
    nodes.append(helper.make_node("MatMulIntegerToFloat", factors, [name], domain=CONTRIB))
    return nodes, [numpy_helper.from_array(np.asarray(value), names[key]) for key, value in tensors.items()]


def _after(model: onnx.ModelProto, layers: Sequence[Layer], layer: Layer) -> Layer | None:
    """The layer whose input this one's output is, if through nothing but what lets a positive factor through.

    Where a user's share is added on the way, it is put into steps of that layer too.
    """
    by_name = {later.node.output[0]: later for later in layers}
    name, shares = layer.node.output[0], []
    while True:
        nodes = [node for node in model.graph.node if name in node.input]
        node = nodes[0]
        if len(nodes) > 1 or node.op_type not in ("Reshape", "Add", "Gemm", *HOMOGENEOUS):
            return None
        if node.op_type == "Gemm" and name == node.input[0]:
            after = by_name.get(node.output[0])
            break
        if node.op_type == "Add":
            shares.append((node, 1 - list(node.input).index(name)))
        name = node.output[0]
    if after is None or not after.activated:
        return None
    for node, place in shares:
        taken = f"{node.output[0]}.int8.share"
        factor = numpy_helper.from_array(1 / after.step_K, f"{taken}.per_step")
        model.graph.initializer.append(factor)
        at = list(model.graph.node).index(node)
        model.graph.node.insert(at, helper.make_node("Mul", [node.input[place], factor.name], [taken]))
        node.input[place] = taken
    return after
