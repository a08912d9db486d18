"""What export exchanges in a network computes the same numbers (model/graph/merged.py)."""

import pytest
import torch
from torch import nn

from model import networks
from model.features import schema as features_toml
from model.features.schema import Schema
from model.graph.merged import (
    HALVED_FROM,
    MERGED_BYTES,
    HalvedHead,
    Merged,
    MergedLookup,
    MergedWide,
    TransposedBlock,
    served,
)
from model.networks.blocks import MASKED, Batch, Head, Lookup
from model.networks.bst import Block
from model.networks.din import Dice
from model.networks.wdl import Wide, relu

LARGE = MERGED_BYTES // (4 * 8) + 1  # rows of a table of width 8 that is too large to be copied


@pytest.fixture(scope="module")
def schema() -> Schema:
    def feature(name: str, side: str, width: int, kind: str = "category", **more: object) -> dict[str, object]:
        return {"name": name, "side": side, "kind": kind, "width": width} | more

    return features_toml.parse(
        {
            "user_id": "str",
            "feature": [
                feature("user_id", "user", 8, "id"),
                feature("age", "user", 8),
                feature("income", "user", 0, "number", transform="standard"),
                feature("item_id", "item", 8, "id", sequence_width=16),
                feature("category_id", "item", 8, sequence_width=16),
                feature("tags", "item", 8, "multi", max_values=3),
                feature("shop", "item", 4),
                feature("price", "item", 0, "number", transform="standard"),
                feature("page", "context", 4, default="home"),
                feature("age_x_item", "cross", 4, of=["age", "item_id"], buckets=50),
            ],
        }
    )


ROWS = {
    "user_id": 20,
    "age": 9,
    "item_id": LARGE,
    "category_id": 30,
    "tags": 40,
    "shop": 12,
    "page": 5,
    "age_x_item": 52,
}


def batch_of(schema: Schema, users: int, candidates: int, history: int) -> Batch:
    torch.manual_seed(users + candidates)
    made = {}
    for side, lead in (
        *(("user", (users,)), ("item", (users, candidates)), ("context", (users, candidates))),
        ("cross", (users, candidates)),
    ):
        sizes = [ROWS[f.name] for f in schema.side(side) if not f.is_float for _ in range(f.columns)]
        made[side] = torch.stack([torch.randint(0, size, lead) for size in sizes], -1)
        plain = sum(f.is_float for f in schema.side(side))
        if plain:
            made[f"{side}_numbers"] = torch.randn(*lead, plain)
    made["history"] = torch.stack([torch.randint(1, ROWS[f.name], (users, history)) for f in schema.sequence], -1)
    made["gap"] = torch.randint(1, 20, (users, history))
    made["gap"][0, history // 2 :] = 0
    made["history"][0, history // 2 :] = 0
    made["action"] = (made["gap"] > 0).long()
    return made


def noisy(module: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


@pytest.mark.parametrize("users", [1, 3])
def test_merged_tables_embed_as_the_tables_one_by_one(schema: Schema, users: int) -> None:
    lookup = noisy(Lookup(schema, ROWS))
    merged = MergedLookup(lookup)
    batch = batch_of(schema, users, 7, 5)
    for one, other in zip(lookup(batch), merged(batch), strict=True):
        assert torch.equal(one, other)


def test_a_large_table_is_not_copied(schema: Schema) -> None:
    lookup = Lookup(schema, ROWS)
    merged = MergedLookup(lookup)
    copied = [part for part in merged.modules() if isinstance(part, Merged)]
    assert copied and all(part.weight.numel() < LARGE for part in copied)
    assert any(table is lookup.other["item_id"] for table in merged.modules())


@pytest.mark.parametrize("users", [1, 3])
def test_a_merged_wide_part_sums_the_same_weights(schema: Schema, users: int) -> None:
    wide = noisy(Wide(schema, ROWS))
    batch = batch_of(schema, users, 7, 5)
    assert torch.allclose(wide(batch), MergedWide(wide)(batch), atol=1e-6)


@pytest.mark.parametrize("activation", [relu, lambda width: nn.LeakyReLU()])
@pytest.mark.parametrize("user", [0, 6])
def test_a_head_in_halves_gives_the_same_logits(user: int, activation: object) -> None:
    head = noisy(Head(user, 10, (HALVED_FROM, 64, 32), 0.1, activation))
    assert HalvedHead.takes(head)
    user_UF, candidate_UCF = torch.randn(3, user), torch.randn(3, 5, 10)
    assert torch.allclose(head(user_UF, candidate_UCF), HalvedHead(head)(user_UF, candidate_UCF), atol=1e-4, rtol=1e-5)


def test_a_head_stays_whole_where_halves_gain_nothing_or_change_it() -> None:
    assert not HalvedHead.takes(Head(4, 10, (64, 32)))
    assert not HalvedHead.takes(Head(4, 10, (HALVED_FROM,)))
    assert not HalvedHead.takes(Head(4, 10, (HALVED_FROM, 64), 0.0, Dice))


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize(("users", "history", "visible"), [(1, 20, 20), (1, 1, 0), (3, 6, 2)])
def test_a_transposed_block_gives_the_targets_rows(users: int, history: int, visible: int, layer_norm: bool) -> None:
    block = noisy(Block(16, 4, 0.1, layer_norm))
    torch.manual_seed(5)
    history_UTD, target_UCD = torch.randn(users, history, 16), torch.randn(users, 9, 16)
    bias_UT = torch.zeros(users, history)
    bias_UT[:, visible:] = MASKED
    one = block.target_row(history_UTD, target_UCD, bias_UT)
    other = TransposedBlock(block).target_row(history_UTD, target_UCD, bias_UT)
    assert torch.allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("name", networks.names())
@pytest.mark.parametrize("halves", [True, False])
def test_a_served_network_gives_the_logits_of_the_trained_one_and_leaves_it_as_it_is(
    schema: Schema, name: str, halves: bool
) -> None:
    given = {"mlp": [HALVED_FROM, 16]} if "mlp" in networks.options(name) else {}
    torch.manual_seed(1)
    network = networks.build(name, schema, ROWS, given).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    batch = batch_of(schema, 3, 7, 5)
    with torch.no_grad():
        before = network(batch)
        after = served(network, halves)(batch)
        assert torch.allclose(before, after, atol=1e-5, rtol=1e-4)
        assert torch.equal(before, network(batch))
