"""The contract of every network in model/networks: a new file there is tested by existing."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import networks
from model.features.ids import PAD, UNKNOWN
from model.features.schema import Schema, parse
from model.features.timeposition import bucket_count

VARIANTS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in networks.names()] + [
    ("bst", {"blocks": 2}),
    ("bst", {"blocks": 3, "heads": 2}),
]
T = 6


def make_schema() -> Schema:
    """Every side and every kind of feature once."""
    feature = [
        {"name": "age", "side": "user", "kind": "category", "width": 4},
        {"name": "income", "side": "user", "kind": "number", "transform": "standard"},
        {"name": "item_id", "side": "item", "kind": "id", "sequence_width": 32},
        {"name": "category_id", "side": "item", "kind": "category", "width": 8, "sequence_width": 16},
        {"name": "tags", "side": "item", "kind": "multi", "width": 4, "max_values": 3},
        {"name": "price", "side": "item", "kind": "number", "transform": "standard"},
        {"name": "duration", "side": "item", "kind": "number", "transform": "log", "width": 4},
        {"name": "position", "side": "context", "kind": "category", "type": "int", "width": 4, "default": 1},
        {
            "name": "age_x_item",
            "side": "cross",
            "kind": "category",
            "of": ["age", "item_id"],
            "buckets": 50,
            "width": 4,
        },
    ]
    return parse({"user_id": "str", "history": {"length": T}, "feature": feature})


ROWS = {"age": 9, "item_id": 40, "category_id": 12, "tags": 15, "duration": 82, "position": 12, "age_x_item": 52}


def make_batch(users: int, candidates: int, slots: int = T, seed: int = 0) -> dict[str, torch.Tensor]:
    """Users with histories of every length from none to full; PAD, UNKNOWN and known ids."""
    draw = np.random.default_rng(seed)

    def rows(name: str, *shape: int) -> np.ndarray[Any, Any]:
        made = draw.integers(2, ROWS[name], shape)
        return np.where(draw.random(shape) < 0.15, UNKNOWN, made)

    lengths = np.minimum(np.arange(users) * 2, slots)
    padded = np.arange(slots) >= lengths[:, None]
    gap = np.where(padded, PAD, draw.integers(1, bucket_count(make_schema().history.gap_edges_s), (users, slots)))
    history = np.stack([rows("item_id", users, slots), rows("category_id", users, slots)], -1)
    history[padded] = PAD
    lead = (users, candidates)
    tags = rows("tags", *lead, 3)
    tags[..., 1:][draw.random((*lead, 2)) < 0.5] = PAD
    item = [rows("item_id", *lead, 1), rows("category_id", *lead, 1), tags, rows("duration", *lead, 1)]
    arrays = {
        "user": rows("age", users, 1),
        "item": np.concatenate(item, -1),
        "context": rows("position", *lead, 1),
        "cross": rows("age_x_item", *lead, 1),
        "history": history,
        "gap": gap,
        "user_numbers": draw.normal(size=(users, 1)).astype(np.float32),
        "item_numbers": draw.normal(size=(*lead, 1)).astype(np.float32),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


OF_USER = ("user", "user_numbers", "history", "gap")


def pick(batch: dict[str, torch.Tensor], user: int, candidates: Any = slice(None)) -> dict[str, torch.Tensor]:
    return {
        name: tensor[user : user + 1] if name in OF_USER else tensor[user : user + 1, candidates]
        for name, tensor in batch.items()
    }


@pytest.fixture(params=VARIANTS, ids=lambda v: "-".join([v[0], *(f"{k}{n}" for k, n in v[1].items())]))
def network(request: pytest.FixtureRequest) -> Iterator[torch.nn.Module]:
    torch.manual_seed(0)
    name, options = request.param
    made = networks.build(name, make_schema(), ROWS, options)
    for module in made.modules():  # weights large enough that a mistake shows
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, 0, 0.5)
            with torch.no_grad():
                module.weight[PAD] = 0
    with torch.no_grad():
        yield made.eval()


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    assert torch.isfinite(a).all() and torch.isfinite(b).all()
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), atol=1e-5)


def test_there_is_one_finite_logit_a_candidate(network: torch.nn.Module) -> None:
    logits = network(make_batch(4, 5))
    assert logits.shape == (4, 5) and torch.isfinite(logits).all()
    assert logits.std() > 1e-4, "the contract cannot see anything on constant logits"


def test_a_candidate_scores_alone_as_in_company(network: torch.nn.Module) -> None:
    batch = make_batch(4, 5)
    together = network(batch)
    for user in range(4):
        for candidate in range(5):
            close(network(pick(batch, user, slice(candidate, candidate + 1)))[0, 0], together[user, candidate])


def test_the_order_of_candidates_is_irrelevant(network: torch.nn.Module) -> None:
    batch, order = make_batch(3, 7), torch.randperm(7)
    for user in range(3):
        close(network(pick(batch, user, order)), network(pick(batch, user))[:, order])


def test_padding_is_unseen_and_so_is_what_stands_in_it(network: torch.nn.Module) -> None:
    batch = make_batch(4, 3)
    longer = dict(batch)
    longer["gap"] = torch.nn.functional.pad(batch["gap"], (0, 9))
    longer["history"] = torch.nn.functional.pad(batch["history"], (0, 0, 0, 9))
    longer["history"][longer["gap"] == PAD] = 7  # an item that was never clicked
    close(network(longer), network(batch))


def test_a_new_user_is_scored_whoever_is_in_the_batch(network: torch.nn.Module) -> None:
    batch = make_batch(1, 5)
    assert (batch["gap"] == PAD).all()
    one_slot = batch | {"gap": batch["gap"][:, :1], "history": batch["history"][:, :1]}
    close(network(one_slot), network(batch))


def test_history_repeated_for_every_row_gives_the_scores_of_history_once(network: torch.nn.Module) -> None:
    """U users × C candidates against U·C rows, each with its own copy of the user

    The user's half is only computed once.
    """
    batch = make_batch(4, 6)
    repeated = {
        name: tensor.repeat_interleave(6, 0) if name in OF_USER else tensor.flatten(0, 1).unsqueeze(1)
        for name, tensor in batch.items()
    }
    close(network(repeated).view(4, 6), network(batch))


def test_every_feature_reaches_the_score(network: torch.nn.Module) -> None:
    batch = make_batch(4, 3)
    base = network(batch)
    for name, tensor in batch.items():
        if name in ("history", "gap") and not hasattr(network, "position"):
            continue
        changed = dict(batch)
        if name == "gap":
            changed[name] = torch.where(tensor == PAD, PAD, 1 + tensor % 20)
        else:
            changed[name] = (
                tensor + 1 if tensor.is_floating_point() else torch.where(tensor > UNKNOWN, 2 + tensor % 7, tensor)
            )
        assert not torch.allclose(network(changed), base), f"{name} is not seen"


@pytest.mark.parametrize(("name", "options"), VARIANTS[: len(networks.names())])
def test_it_learns_two_rows_by_heart(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    made = networks.build(name, make_schema(), ROWS, options)
    batch, label = make_batch(2, 1), torch.tensor([[0.0], [1.0]])
    sparse = [m.weight for m in made.modules() if isinstance(m, torch.nn.Embedding)]
    dense = [p for p in made.parameters() if not any(p is weight for weight in sparse)]
    parts = [torch.optim.SparseAdam(sparse, 0.01), torch.optim.Adam(dense, 0.003)]
    for _ in range(60):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(made(batch), label)
        loss.backward()
        loss = loss.detach()
        for part in parts:
            part.step()
            part.zero_grad()
    assert loss.item() < 0.05
    for table in sparse:
        assert (table[PAD] == 0).all(), "PAD learnt something"


def test_only_the_touched_rows_of_a_table_change_in_a_step() -> None:
    made = networks.build("bst", make_schema(), ROWS)
    before = copy.deepcopy(made.state_dict())
    made(make_batch(2, 1)).sum().backward()
    gradients = [m.weight.grad for m in made.modules() if isinstance(m, torch.nn.Embedding)]
    assert all(gradient is not None and gradient.is_sparse for gradient in gradients)
    assert before.keys() == made.state_dict().keys()


def test_an_unknown_network_or_option_names_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="allowed: .*bst"):
        networks.build("bert", make_schema(), ROWS)
    with pytest.raises(ValueError, match="unknown head; allowed: blocks, heads"):
        networks.build("bst", make_schema(), ROWS, {"head": 2})
    with pytest.raises(ValueError, match="7 heads"):
        networks.build("bst", make_schema(), ROWS, {"heads": 7})


def test_bst_with_one_block_is_the_papers_equations_written_row_by_row() -> None:
    """(1)-(6) by hand over all T + 1 rows, the target last; its row is what the MLP gets."""
    torch.manual_seed(3)
    made = networks.build("bst", make_schema(), ROWS, {"dropout": 0.0}).eval()
    batch = make_batch(4, 1)
    block = made.blocks[0]
    with torch.no_grad():
        e = made.embed(batch)
        gap = torch.cat([batch["gap"], torch.ones(4, 1, dtype=torch.long)], 1)  # the target's own gap is 0: bucket 1
        rows = torch.cat([torch.cat([e.history_UTD, e.candidate_UCD], 1), made.position(gap)], -1)
        for user in range(4):
            visible = [t for t in range(T + 1) if gap[user, t] != PAD]
            s = rows[user, visible]
            heads = []
            for h in range(8):
                part = slice(h * 8, h * 8 + 8)
                q, k, v = (s @ getattr(block, name).weight[part].T for name in ("query", "key", "value"))  # (3)
                heads.append(torch.softmax(q @ k.T / 8**0.5, -1) @ v)  # (1)
            s = torch.nn.functional.layer_norm(s + torch.cat(heads, -1) @ block.joined.weight.T, (64,))  # (2), (5)
            inner = torch.nn.functional.leaky_relu(s @ block.inner.weight.T + block.inner.bias)
            f = torch.nn.functional.layer_norm(s + inner @ block.outer.weight.T + block.outer.bias, (64,))  # (6)
            own = {name: tensor[user : user + 1] for name, tensor in batch.items()}
            other = made.embed(own)
            by_hand = made.head(other.user_UF, torch.cat([other.other_UCF, f[-1].view(1, 1, -1)], -1))
            close(made(own), by_hand)


def test_the_networks_are_found_by_their_files() -> None:
    folder = Path(networks.__file__).parent
    assert networks.names() == sorted(p.stem for p in folder.glob("*.py") if p.stem not in ("__init__", "blocks"))
