"""ONNX graphs read and rewritten: where a tensor's bytes stand, and other nodes in the place of some."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

Made = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]  # nodes, and the initializers that they read


class Span(NamedTuple):
    """Where the bytes of a tensor of external data stand."""

    file: str  # beside the graph
    offset: int
    length: int

    @classmethod
    def of(cls, tensor: onnx.TensorProto) -> "Span":
        told = {entry.key: entry.value for entry in tensor.external_data}
        return cls(told["location"], int(told.get("offset", 0)), int(told["length"]))

    def bytes(self, folder: Path) -> npt.NDArray[np.uint8]:
        """Memory-mapped: a table may be larger than memory."""
        return np.memmap(folder / self.file, np.uint8, "r", self.offset, (self.length,))


def replaced(model: onnx.ModelProto, made_of: Mapping[str, Made]) -> onnx.ModelProto:
    """The model with these nodes in the place of the ones that make the same tensors, without what nobody reads."""
    nodes: list[onnx.NodeProto] = []
    tensors = list(model.graph.initializer)
    for node in model.graph.node:
        new, read_by_them = made_of.get(node.output[0], ([node], []))
        nodes += new
        tensors += read_by_them
    read = {name for node in nodes for name in node.input}
    kept = {tensor.name: tensor for tensor in tensors if tensor.name in read}  # two lookups may bring one table
    for field, values in ((model.graph.node, nodes), (model.graph.initializer, list(kept.values()))):
        values = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(values)
    return model
