"""A feature kind is one class: two that no file knows go all the way from a log to a gradient and to a request."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from model import networks
from model.datasets.tables import DataSet
from model.features.behaviour import Behaviour
from model.features.ids import FIRST, MISSING, UNKNOWN, BadValue
from model.features.kinds import KINDS, Category, Column, Number, Rows, SchemaError, to_text
from model.features.schema import Schema, parse
from model.features.table import Vocabulary
from model.prepared.encode import encode_tables
from model.prepared.loader import Prepared
from model.prepared.order import in_order
from model.training.batches import tensors
from tests.worlds import write_log


class Flag(Category):
    """True or false: two rows, no vocabulary; what crosses are made of."""

    kind = "flag"
    typed = False

    @property
    def fixed_rows(self) -> int:
        return FIRST + 2

    def column(self, values: Sequence[Any]) -> Column:
        for value in values:
            if value is not None and not isinstance(value, bool):
                raise BadValue(f"{value!r} given, true or false is allowed")
        return np.array([MISSING if value is None else value for value in values], np.uint64)

    def from_text(self, text: str) -> Any:
        return {"1": True, "0": False}.get(text, text)

    def rows(self, column: Column, vocabularies: Mapping[str, Vocabulary]) -> Rows:
        return np.where(column == MISSING, UNKNOWN, FIRST + column.astype(np.int64))[..., None]


@dataclass(frozen=True)
class Steps(Number):
    """A number in steps of equal size, with an option that no other kind has."""

    transform: None = None  # type: ignore[assignment]  # its own is `size`
    size: float = 1.0
    count: int = 8

    kind = "steps"

    def __post_init__(self) -> None:
        self._require(self.size > 0, f"size {self.size}, above 0")

    @property
    def fixed_rows(self) -> int:
        return FIRST + self.count

    def rows(self, column: Column, vocabularies: Mapping[str, Vocabulary]) -> Rows:
        steps = np.clip(np.nan_to_num(column) // self.size, 0, self.count - 1).astype(np.int64)
        return np.where(np.isnan(column), UNKNOWN, FIRST + steps)[..., None]


FEATURES: list[dict[str, Any]] = [
    {"name": "member", "side": "user", "kind": "flag", "width": 4},
    {"name": "item_id", "side": "item", "kind": "id", "sequence_width": 8},
    {"name": "price", "side": "item", "kind": "steps", "size": 5.0, "sequence_width": 4},
    {"name": "wifi", "side": "context", "kind": "flag", "default": True, "width": 4},
    {"name": "member_x_item", "side": "cross", "kind": "category", "of": ["member", "item_id"], "buckets": 9},
]


@pytest.fixture
def schema(monkeypatch: pytest.MonkeyPatch) -> Schema:
    for kind in (Flag, Steps):
        monkeypatch.setitem(KINDS, kind.kind, kind)
    return parse({"user_id": "str", "history": {"length": 4}, "feature": FEATURES})


@pytest.fixture
def data(schema: Schema, tmp_path: Path) -> Prepared:
    """The log with a switch of the user, one of the impression, and a price in steps."""
    write_log(tmp_path)
    for name, column in (("users", "member"), ("impressions", "wifi")):
        path = tmp_path / "tables" / f"{name}.parquet"
        frame = pl.read_parquet(path)
        switch = pl.Series(column, [None if n % 5 == 0 else n % 3 == 0 for n in range(len(frame))], pl.Boolean)
        frame.with_columns(switch).write_parquet(path)
    encode_tables(tmp_path, schema, DataSet("log", "UTC", 0))
    return Prepared(tmp_path)


def test_a_new_kind_is_prepared_kept_and_served_alike(schema: Schema, data: Prepared) -> None:
    assert data.schema == schema, "features.toml carries the kinds and their options"
    users = pl.read_parquet(data.folder / "tables" / "users.parquet")
    profiles = {
        row["user_id"]: {} if row["member"] is None else {"member": to_text(row["member"])}
        for row in users.iter_rows(named=True)
    }
    log = pl.read_parquet(data.folder / "tables" / "behaviours.parquet").unique(maintain_order=True)
    impressions = in_order(pl.read_parquet(data.folder / "tables" / "impressions.parquet"), schema)
    switches, prices = set(), set()
    for row, shown in enumerate(impressions.head(300).iter_rows(named=True)):
        before = (pl.col("user_id") == shown["user_id"]) & (pl.col("timestamp") < shown["timestamp"])
        behaviours = [Behaviour(*values) for values in log.filter(before).drop("user_id").iter_rows()]
        served = data.encoder.encode(
            shown["user_id"],
            profiles.get(shown["user_id"], {}),
            behaviours,
            [shown["item_id"]],
            shown["timestamp"],
            data.catalog,
            context={"wifi": shown["wifi"]},
        )
        trained = data.batch(np.array([row]))
        slots = served.inputs["gap"].shape[1]
        for name, array in served.inputs.items():
            of_training = trained[name][:, :slots] if name in ("history", "gap", "action") else trained[name]
            np.testing.assert_array_equal(of_training, array, err_msg=f"{name} of impression {row}")
        switches |= {int(served.inputs["user"][0, 0]), int(served.inputs["context"][0, 0, 0])}
        prices.add(int(served.inputs["item"][0, 0, 1]))
    assert switches == {UNKNOWN, FIRST, FIRST + 1} and prices == {UNKNOWN, *range(FIRST, FIRST + 8)}


def test_a_callers_value_of_a_new_kind_wins_or_is_refused_by_place(data: Prepared) -> None:
    encode, catalog = data.encoder.encode, data.catalog
    candidates = ["i1", {"item_id": "i1", "price": 12, "wifi": False}]
    inputs = encode("u1", {"member": "1"}, [], candidates, 0, catalog, user={"member": False}).inputs
    assert inputs["user"].tolist() == [[FIRST]] and inputs["context"].tolist() == [[[FIRST + 1], [FIRST]]]
    assert inputs["item"][0, :, 1].tolist() == [FIRST, FIRST + 2]
    assert encode("u1", {"member": "yes"}, [], candidates, 0, catalog).malformed == 1
    with pytest.raises(BadValue, match="context.wifi: 'on' given, true or false is allowed"):
        encode("u1", {}, [], candidates, 0, catalog, context={"wifi": "on"})


@pytest.mark.parametrize("name", ["wdl", "bst"])
def test_a_network_learns_the_tables_of_a_new_kind(name: str, data: Prepared) -> None:
    torch.manual_seed(0)
    network = networks.build(name, data.schema, data.rows, {"mlp": (16,)} | ({"heads": 2} if name == "bst" else {}))
    batch = tensors(data.batch(np.arange(64)))
    network(batch).sum().backward()
    for table in (*network.embed.other.values(), *network.embed.sequence.values()):
        assert table.weight.grad is not None and table.weight.grad.to_dense().any()
    assert network.embed.sequence["price"].num_embeddings == FIRST + 8


def test_a_feature_table_names_the_kinds_and_options_that_there_are(schema: Schema) -> None:
    def refused(**change: Any) -> str:
        with pytest.raises(SchemaError) as error:
            parse({"user_id": "str", "feature": [FEATURES[1], FEATURES[2] | change]})
        return str(error.value)

    assert refused(kind="step") == f"feature 'price': kind 'step', allowed: {', '.join(KINDS)}"
    assert "steps" in KINDS and "unknown max_values; allowed: name, side" in refused(max_values=2)
    assert refused(size=0) == "feature 'price': size 0, above 0"
    crossed = [FEATURES[1], FEATURES[2], FEATURES[4] | {"of": ["price", "item_id"]}]
    with pytest.raises(SchemaError, match="`of` names 'price', allowed: features of kind id, category, flag"):
        parse({"user_id": "str", "feature": crossed})
    assert json.loads(json.dumps(schema.as_dict()))["feature"] == [{"type": "str"} | feature for feature in FEATURES]
