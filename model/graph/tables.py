"""Embedding tables in fp16 or int8: the same graphs on tables of half, or nearly a quarter, of the bytes.

A lookup gathers rows as they are stored and widens what it gathered, so that no table ever stands whole in fp32:

    fp16  Gather, Cast
    int8  Gather, Cast, times the Gather of the row's scale, max|row| / 127; 0 stays 0, so that padding adds nothing

These are ONNX's own operators: what runs the fp32 graph runs this one. All graphs of a bundle lie on the same tables,
so all are rewritten at once. Tables are read and written in pieces, memory-mapped: one may be larger than memory.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from model.bundle.layout import ATTENTION_GRAPH, GRAPH, INT8_GRAPH
from model.graph.nodes import Made, Span, replaced

GRAPHS = (GRAPH, INT8_GRAPH, ATTENTION_GRAPH)
DATA = f"{GRAPH}.data"
LEAST_ROWS = 10_000  # of a table that is worth it: of width 64, 2.5 MB in fp32
PIECE = 2**22  # numbers that are converted at once
ALIGNED = 64  # bytes: where a processor's vectors begin
MOST = 127  # steps of a scale
Array = npt.NDArray[Any]


class TablesError(ValueError):
    """Tables that cannot have another form; says why."""


@dataclass(frozen=True)
class Form:
    """How rows of a width are stored: as one or several arrays of as many rows."""

    arrays: Callable[[int], Mapping[str, tuple[Any, int]]]  # of a width: type and columns of each, by its suffix
    narrowed: Callable[[Array], Sequence[Array]]  # rows (R, D) as these arrays

    def row_bytes(self, width: int) -> int:
        return sum(np.dtype(kind).itemsize * columns for kind, columns in self.arrays(width).values())


def _fp16(rows_RD: Array) -> list[Array]:
    with np.errstate(over="ignore"):  # it is looked for
        return [rows_RD.astype(np.float16)]


def _int8(rows_RD: Array) -> list[Array]:
    scale_R1 = np.abs(rows_RD).max(1, keepdims=True) / np.float32(MOST)
    steps_RD = np.round(rows_RD / np.where(scale_R1 > 0, scale_R1, 1))
    return [np.clip(steps_RD, -MOST, MOST).astype(np.int8), scale_R1]


BYTES = Form(lambda width: {"": (np.uint8, width)}, lambda rows: [rows])
FP32 = "fp32"
FORMS = {
    FP32: Form(lambda width: {"": (np.float32, width)}, lambda rows: [rows]),
    "fp16": Form(lambda width: {".fp16": (np.float16, width)}, _fp16),
    "int8": Form(lambda width: {".int8": (np.int8, width), ".scale": (np.float32, 1)}, _int8),
}


@dataclass(frozen=True)
class Table:
    """An embedding table of a bundle, by its name in the serving graph."""

    name: str
    rows: int
    width: int
    form: str = FP32

    @property
    def bytes(self) -> int:
        return self.rows * FORMS[self.form].row_bytes(self.width)

    def facts(self) -> dict[str, Any]:
        return {"form": self.form, "rows": self.rows, "width": self.width, "bytes": self.bytes}


def narrow_graphs(source: Path, target: Path, form: str, least_rows: int = LEAST_ROWS) -> list[Table]:
    """Writes the graphs of the bundle in `source`, and their weights, to `target`, on tables of that form.

    Tables of fewer rows stay fp32. Raises TablesError where none is left that it makes smaller.
    """
    graphs = {name: onnx.load(source / name, load_external_data=False) for name in GRAPHS if (source / name).is_file()}
    tables = {span: formed(table, form, least_rows) for span, table in _tables(graphs.values()).items()}
    if all(table.form == FP32 for table in tables.values()):
        longest = max((table.rows for table in tables.values()), default=0)
        raise TablesError(
            f"{source}: the longest table has {longest:,} rows, and one of fewer than {least_rows:,} stays fp32"
        )
    spans = {span for model in graphs.values() for span in _spans(model).values()}
    stored = _stored(source, target / DATA, spans, tables)
    for name, model in graphs.items():
        onnx.save(_on(model, stored), target / name)
    return list(tables.values())


def formed(table: Table, form: str, least_rows: int) -> Table:
    """A long one in `form`, or in fp16 where that takes no more: up to width 4, for the scale of an int8 row."""
    if table.rows < least_rows:
        return table
    return replace(table, form=min("fp16", form, key=lambda one: FORMS[one].row_bytes(table.width)))


def _tables(models: Iterable[onnx.ModelProto]) -> dict[Span, Table]:
    """What lookups, and nothing else, read in every graph."""
    tables: dict[Span, Table] = {}
    others = set()
    for model in models:
        looked_up = {name: True for name in _spans(model)}
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                if name in looked_up:
                    looked_up[name] &= place == 0 and _takes_rows(node)
        for tensor in model.graph.initializer:
            if tensor.name in looked_up:
                span = Span.of(tensor)
                if looked_up[tensor.name] and tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2:
                    tables.setdefault(span, Table(tensor.name, *tensor.dims))
                else:
                    others.add(span)
    return {span: table for span, table in tables.items() if span not in others}


def _takes_rows(node: onnx.NodeProto) -> bool:
    return node.op_type == "Gather" and not any(one.i for one in node.attribute if one.name == "axis")


def _spans(model: onnx.ModelProto) -> dict[str, Span]:
    return {tensor.name: Span.of(tensor) for tensor in model.graph.initializer if tensor.external_data}


@dataclass(frozen=True)
class Part:
    """An array in the new file of weights."""

    suffix: str  # of its tensor's name
    kind: np.dtype[Any]
    shape: tuple[int, int]
    offset: int

    @property
    def length(self) -> int:
        return self.kind.itemsize * math.prod(self.shape)

    def mapped(self, file: Path) -> Array:
        return np.memmap(file, self.kind, "r+", self.offset, self.shape)

    def place(self, tensor: TensorProto) -> None:
        """Points a tensor to it."""
        del tensor.external_data[:]
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", DATA), ("offset", self.offset), ("length", self.length)):
            tensor.external_data.add(key=key, value=str(value))

    def tensor(self, table: str) -> TensorProto:
        tensor = TensorProto(name=table + self.suffix, data_type=helper.np_dtype_to_tensor_dtype(self.kind))
        tensor.dims.extend(self.shape)
        self.place(tensor)
        return tensor


def _stored(source: Path, file: Path, spans: Iterable[Span], tables: Mapping[Span, Table]) -> dict[Span, list[Part]]:
    """Writes the new file of weights; where in it each tensor of the old one is."""
    parts: dict[Span, list[Part]] = {}
    end = 0
    for span in sorted(spans):
        rows, form, width = _as_rows(span, tables.get(span))
        parts[span] = []
        for suffix, (kind, columns) in form.arrays(width).items():
            parts[span].append(Part(suffix, np.dtype(kind), (rows, columns), end + -end % ALIGNED))
            end = parts[span][-1].offset + parts[span][-1].length
    with file.open("wb") as empty:
        empty.truncate(end)
    for span, arrays in parts.items():
        rows, form, width = _as_rows(span, tables.get(span))
        old = span.bytes(source).view(np.float32 if form is not BYTES else np.uint8).reshape(rows, width)
        new, step = [part.mapped(file) for part in arrays], max(1, PIECE // width)
        for at in range(0, rows, step):
            for array, piece in zip(new, form.narrowed(old[at : at + step]), strict=True):
                array[at : at + step] = piece
                if not np.isfinite(piece).all():
                    raise TablesError(f"{tables[span].name} holds a weight beyond fp16, whose largest number is 65504")
    return parts


def _as_rows(span: Span, table: Table | None) -> tuple[int, Form, int]:
    """What stays as it is, is bytes."""
    if table is None or table.form == FP32:
        return span.length, BYTES, 1
    return table.rows, FORMS[table.form], table.width


def _on(model: onnx.ModelProto, stored: Mapping[Span, Sequence[Part]]) -> onnx.ModelProto:
    """The graph on the new file of weights."""
    narrow: dict[str, Sequence[Part]] = {}
    for tensor in model.graph.initializer:
        if tensor.external_data:
            parts = stored[Span.of(tensor)]
            if parts[0].suffix:
                narrow[tensor.name] = parts
            else:
                parts[0].place(tensor)
    lookups = [node for node in model.graph.node if node.input and node.input[0] in narrow]
    return replaced(model, {node.output[0]: _lookup(node, narrow[node.input[0]]) for node in lookups})


def _lookup(node: onnx.NodeProto, parts: Sequence[Part]) -> Made:
    """Rows as they are stored, widened: the nodes that take the place of a Gather of fp32 rows."""
    (table, rows), output = node.input, node.output[0]
    tensors = [part.tensor(table) for part in parts]
    gathered = [output + part.suffix for part in parts]
    nodes = [
        helper.make_node("Gather", [tensor.name, rows], [name]) for tensor, name in zip(tensors, gathered, strict=True)
    ]
    values, *scales = gathered
    wide = f"{output}.wide" if scales else output
    nodes.append(helper.make_node("Cast", [values], [wide], to=TensorProto.FLOAT))
    nodes += [helper.make_node("Mul", [wide, scale], [output]) for scale in scales]
    return nodes, tensors
