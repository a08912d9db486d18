"""Network → ONNX graph, and the proof that onnxruntime answers as torch does.

Opset 20: from 23 on the exporter emits one Attention node whose broadcast mask fails at run time.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from model.bundle.reading import Bundle
from model.features.batch import axes
from model.features.ids import PAD, UNKNOWN
from model.graph.merged import served
from model.networks.blocks import CANDIDATE_SIDES
from model.prepared.loader import Prepared
from model.training.batches import tensors
from model.training.objective import SCORES

OPSET = 20
TOLERANCE = 1e-5
MOST_PAIRS = 300_000  # of a candidate and a behaviour that a proof holds at once


class ExportError(ValueError):
    """A network that does not answer in onnxruntime as it does in torch; says for which shapes and by how much."""


class _Score(nn.Module):
    """What is served, (U, C): the logit as the objective reads it (model/training/objective.py)."""

    def __init__(self, network: nn.Module, objective: str):
        super().__init__()
        self.network = network
        self.of_logit = SCORES[objective]

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.of_logit(self.network(batch))


def write_graph(
    network: nn.Module,
    example: Mapping[str, torch.Tensor],
    path: Path,
    objective: str = "click",
    form: Callable[[nn.Module], nn.Module] = served,
) -> None:
    """Writes `path` and, beside it, its tables as external data. U, C and T stay dynamic.

    `form` is what is done to the network before.
    """
    draw_graph(_Score(form(network), objective).eval(), example, path, "score")


def draw_graph(graph: nn.Module, example: Mapping[str, torch.Tensor], path: Path, output: str) -> None:
    """Writes what a module makes of a batch. Raises ExportError where it cannot be drawn."""
    batch = dict(example)
    dynamic = {name: {axis: torch.export.Dim.DYNAMIC for axis in range(len(axes(name)))} for name in batch}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not installed
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec", FutureWarning)  # torch.export's own
        program = torch.onnx.export(
            graph,
            kwargs={"batch": batch},
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes={"batch": dynamic},
            input_names=list(batch),
            output_names=[output],
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export made no program")
    _without_traces(program.model)
    program.save(str(path), external_data=True)


def _without_traces(model: Any) -> None:
    """Drops where each node came from: stack traces carry paths of the exporting machine, and most of the file."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def check_parity(network: nn.Module, bundle: Bundle, objective: str = "click") -> float:
    """Largest difference between torch and onnxruntime over all shapes that serving meets; relative above 1.

    Raises ExportError above TOLERANCE.
    """
    session, trained, worst = bundle.session(), _Score(network, objective).eval(), 0.0
    for inputs in cases(bundle):
        with torch.no_grad():
            expected = trained(tensors(inputs)).numpy()
        answered = bundle.score(session, inputs)
        shape = f"U = {expected.shape[0]}, C = {expected.shape[1]}, T = {inputs['gap'].shape[1]}"
        if answered.shape != expected.shape or not (np.isfinite(answered).all() and np.isfinite(expected).all()):
            raise ExportError(
                f"{shape}: onnxruntime gives shape {answered.shape}, torch {expected.shape}, or not finite"
            )
        worst = max(worst, float((np.abs(answered - expected) / np.maximum(1, np.abs(expected))).max()))
        if worst > TOLERANCE:
            raise ExportError(f"{shape}: onnxruntime and torch differ by {worst:.1e}, at most {TOLERANCE} is allowed")
    return worst


def cases(bundle: Bundle, seed: int = 0) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Inputs for U ∈ {1, 3}, C ∈ {1, 2, 100, 1000}, histories empty, 1, half and full; ids PAD, UNKNOWN and known.

    Long histories are met by fewer candidates: the proof is to fit in memory.
    """
    draw = np.random.default_rng(seed)
    lengths = {"": bundle.schema.history.length} | {f"_{g.object_type}": g.length for g in bundle.schema.groups}
    for users in (1, 3):
        for candidates in (1, 2, 100, 1000):
            if users * candidates * lengths[""] > MOST_PAIRS:
                continue
            for share in (0, 1e-9, 0.5, 1):
                inputs: dict[str, np.ndarray[Any, Any]] = {}
                for name, limit in bundle.limits.items():
                    if "T" not in axes(name) and limit.size:
                        lead = (users,) if axes(name) == ("U",) else (users, candidates)
                        rows = draw.integers(0, limit, (*lead, *limit.shape))
                        rows[draw.random(rows.shape) < 0.1] = UNKNOWN
                        rows[draw.random(rows.shape) < 0.05] = PAD
                        inputs[name] = rows
                for suffix, length in lengths.items():
                    first = math.ceil(share * length)  # of the first user; the others have more
                    visible = np.minimum(np.arange(users) * length // 2 + first, length)
                    slots = max(1, int(visible.max()))
                    padded = np.arange(slots) >= visible[:, None]
                    for name in (f"history{suffix}", f"gap{suffix}", f"action{suffix}"):
                        limit = bundle.limits[name]
                        inputs[name] = draw.integers(1, limit, (users, slots, *limit.shape))  # rows from UNKNOWN on
                        inputs[name][padded] = PAD
                for side in ("user", *CANDIDATE_SIDES):
                    lead = (users,) if side == "user" else (users, candidates)
                    count = sum(f.is_float for f in bundle.schema.side(side))
                    if count:
                        inputs[f"{side}_numbers"] = draw.normal(size=(*lead, count)).astype(np.float32)
                yield inputs


def example_batch(data: Prepared) -> dict[str, torch.Tensor]:
    """A small batch of what the data hold."""
    rows = data.of_split("train")[:2]
    return widened(tensors(data.batch(rows)))


def widened(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same with C, T > 1 each: the exporter would fix an axis of size 1."""

    def wide(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if "C" in axes(name):
            return tensor.repeat_interleave(3, 1)
        return torch.cat([tensor, torch.full_like(tensor, PAD)], 1) if "T" in axes(name) else tensor

    return {name: wide(name, tensor) for name, tensor in batch.items()}
