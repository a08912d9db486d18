"""The contract of every network in model/networks: a new file there is tested by existing."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model import networks
from model.features.ids import PAD, UNKNOWN
from model.features.schema import parse
from model.networks.blocks import Head, RankingNetwork
from model.training.objective import SCORES
from tests.batches import ACTIONS, ROWS, SEARCHES, SEQUENCES, T, close, make_batch, make_schema, of_user, pick, strong

VARIANTS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in networks.names()] + [
    ("bst", {"blocks": 2}),
    ("bst", {"blocks": 3, "heads": 2}),
    ("bst", {"position": "index"}),
    ("bst", {"position": "sincos"}),
    ("bst", {"position": "none", "layer_norm": False}),
    ("din", {"position": "gap"}),
    ("din", {"cross_layers": 2}),
    ("wdl_seq", {"position": "gap"}),
    ("atrank", {"residual": True}),
]


@pytest.fixture(params=VARIANTS, ids=lambda v: "-".join([v[0], *(f"{k}{n}" for k, n in v[1].items())]))
def network(request: pytest.FixtureRequest) -> Iterator[RankingNetwork]:
    torch.manual_seed(0)
    name, options = request.param
    with torch.no_grad():
        yield strong(networks.build(name, make_schema(), ROWS, options))


@pytest.mark.parametrize("name", networks.names())
def test_a_file_holds_a_config_of_defaults_and_a_network_of_the_contract(name: str) -> None:
    module = importlib.import_module(f"model.networks.{name}")
    assert module.Config.__dataclass_params__.frozen and module.Config() == networks.config(name, {})
    assert issubclass(module.Network, RankingNetwork) and module.Network.forward is not RankingNetwork.forward
    assert module.__doc__, "a file opens with its paper"


def test_what_a_network_tells_of_itself_exists(network: RankingNetwork) -> None:
    assert network.unseen <= {called for _, called, _ in what_a_network_can_see()}
    assert network.objective in (None, *SCORES)
    parameters = {id(parameter) for parameter in network.parameters()}
    assert {id(parameter) for parameter in network.wide_parameters()} <= parameters
    heads = [name for name, part in network.named_modules() if isinstance(part, Head)]
    assert heads == [network.head_name] * len(heads), "int8 quantises one head"


def test_there_is_one_finite_logit_a_candidate(network: RankingNetwork) -> None:
    logits = network(make_batch(4, 5))
    assert logits.shape == (4, 5) and torch.isfinite(logits).all()
    assert logits.std() > 1e-4, "the contract cannot see anything on constant logits"


def test_a_candidate_scores_alone_as_in_company(network: RankingNetwork) -> None:
    batch = make_batch(4, 5)
    together = network(batch)
    for user in range(4):
        for candidate in range(5):
            close(network(pick(batch, user, slice(candidate, candidate + 1)))[0, 0], together[user, candidate])


def test_the_order_of_candidates_is_irrelevant(network: RankingNetwork) -> None:
    batch, order = make_batch(3, 7), torch.randperm(7)
    for user in range(3):
        close(network(pick(batch, user, order)), network(pick(batch, user))[:, order])


def test_padding_is_unseen_and_so_is_what_stands_in_it(network: RankingNetwork) -> None:
    batch = make_batch(4, 3)
    longer = dict(batch)
    for history, gap, action in SEQUENCES.values():
        longer[gap] = torch.nn.functional.pad(batch[gap], (0, 9))
        longer[action] = torch.nn.functional.pad(batch[action], (0, 9))
        longer[history] = torch.nn.functional.pad(batch[history], (0, 0, 0, 9))
        longer[history][longer[gap] == PAD] = 7  # an item that was never clicked
        longer[action][longer[gap] == PAD] = 1
    close(network(longer), network(batch))


def test_a_new_user_is_scored_whoever_is_in_the_batch(network: RankingNetwork) -> None:
    batch = make_batch(4, 5)
    alone = pick(batch, 0)
    assert all((alone[gap] == PAD).all() for _, gap, _ in SEQUENCES.values())
    one_slot = alone | {name: alone[name][:, :1] for names in SEQUENCES.values() for name in names}
    close(network(one_slot)[0], network(batch)[0])


def test_history_repeated_for_every_row_gives_the_scores_of_history_once(network: RankingNetwork) -> None:
    """U users × C candidates against U·C rows, each with its own copy of the user

    The user's half is only computed once.
    """
    batch = make_batch(4, 6)
    repeated = {
        name: tensor.repeat_interleave(6, 0) if of_user(name) else tensor.flatten(0, 1).unsqueeze(1)
        for name, tensor in batch.items()
    }
    close(network(repeated).view(4, 6), network(batch))


def what_a_network_can_see() -> list[tuple[str, str, Any]]:
    """(input, what `unseen` calls it, its columns)"""
    schema, found = make_schema(), []
    for side in ("user", "item", "context", "cross"):
        found += [(side, name, (..., place)) for name, place in schema.places(side).items()]
        floats = [f.name for f in schema.side(side) if f.is_float]
        found += [(f"{side}_numbers", name, (..., slice(i, i + 1))) for i, name in enumerate(floats)]
    found += [("history", "history", (..., slice(i, i + 1))) for i in range(len(schema.sequence))]
    found += [(name, name, ...) for name in ("gap", "action")]
    return found + [(name, "groups", ...) for name in SEQUENCES["_keyword"]]


def test_what_a_network_can_see_is_all_of_its_input() -> None:
    assert {name for name, _, _ in what_a_network_can_see()} == set(make_batch(1, 1))


def changed(name: str, part: torch.Tensor) -> torch.Tensor:
    if part.is_floating_point():
        return part + 1
    if name.startswith("action"):
        return torch.where(part != PAD, 1 + part % len(SEARCHES if name.endswith("keyword") else ACTIONS), part)
    return torch.where(part > UNKNOWN, 2 + part % 7, part)


def test_every_feature_reaches_the_score_unless_the_network_says_otherwise(network: RankingNetwork) -> None:
    batch = make_batch(4, 3)
    base = network(batch)
    for name, called, at in what_a_network_can_see():
        other = batch[name].clone()
        other[at] = changed(name, other[at])
        logits = network(batch | {name: other})
        if called in network.unseen:
            assert torch.equal(logits, base), f"{called} in {name} is seen"
        else:
            assert not torch.allclose(logits, base, atol=1e-6), f"{called} in {name} is not seen"


def test_attention_weighs_each_behaviour_for_each_candidate_and_padding_not_at_all(network: RankingNetwork) -> None:
    batch = make_batch(4, 3)
    weight_UCT = network.attention(batch)
    if weight_UCT is None:
        return
    gaps = [batch["gap"]] if "groups" in network.unseen else [batch[gap] for _, gap, _ in SEQUENCES.values()]
    visible_UT = torch.cat(gaps, 1) != PAD
    behaviours = visible_UT.shape[1]
    assert weight_UCT.shape[:2] == (4, 3) and weight_UCT.shape[2] in (behaviours, behaviours + 1)  # +1: the target
    seen_UCT = visible_UT.unsqueeze(1).expand(-1, 3, -1)
    assert (weight_UCT[..., :behaviours][~seen_UCT] == 0).all() and torch.isfinite(weight_UCT).all()
    assert (weight_UCT[..., :behaviours][seen_UCT] != 0).all()


@pytest.mark.parametrize(("name", "options"), VARIANTS[: len(networks.names())])
def test_it_learns_two_rows_by_heart(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    made = networks.build(name, make_schema(), ROWS, options)
    batch, label = make_batch(2, 1), torch.tensor([[0.0], [1.0]])
    sparse = [m.weight for m in made.modules() if isinstance(m, torch.nn.Embedding)]
    dense = [p for p in made.parameters() if not any(p is weight for weight in sparse)]
    parts: list[torch.optim.Optimizer] = [torch.optim.SparseAdam(sparse, 0.01)]
    parts += [torch.optim.Adam(dense, 0.003)] if dense else []  # bpr is nothing but tables
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
    table, before = made.embed.sequence["item_id"], made.embed.sequence["item_id"].weight.detach().clone()
    batch = make_batch(2, 1)
    made(batch).sum().backward()
    assert table.weight.grad is not None and table.weight.grad.is_sparse
    torch.sparse.check_sparse_tensor_invariants.disable()  # as training does: torch warns unless told
    torch.optim.Adagrad(made.parameters(), 0.1).step()
    touched = set(torch.cat([batch["item"][..., 0].flatten(), batch["history"][..., 0].flatten()]).tolist()) - {PAD}
    assert set(torch.nonzero((table.weight != before).any(1)).flatten().tolist()) == touched


def test_the_users_half_is_computed_without_a_candidate_axis() -> None:
    """The keys and values of the history, and the user's share of the MLP, once a user however many candidates."""
    made = networks.build("bst", make_schema(), ROWS).eval()
    seen: dict[str, list[tuple[int, ...]]] = {"key": [], "user": []}
    made.blocks[0].key.register_forward_pre_hook(lambda _, inputs: seen["key"].append(tuple(inputs[0].shape)))
    made.head.of_user.register_forward_pre_hook(lambda _, inputs: seen["user"].append(tuple(inputs[0].shape)))
    made(make_batch(3, 50))
    assert sorted(seen["key"]) == [(3, T, 64), (3, 50, 64)]  # the history's, and the targets' own
    assert seen["user"] == [(3, 9)]


def test_the_defaults_are_the_papers_table_3() -> None:
    made = networks.build("bst", make_schema(), ROWS)
    config = type(made).__init__.__globals__["Config"]()
    assert (config.blocks, config.heads, config.dropout, config.mlp) == (1, 8, 0.2, (1024, 512, 256))
    assert [layer.out_features for layer in made.head.rest if isinstance(layer, torch.nn.Linear)] == [512, 256, 1]
    assert made.head.of_candidate.out_features == 1024 and made.blocks[0].inner.out_features == 4 * 64
    assert schema_width(made) == 64 and parse({"user_id": "str", "feature": ITEM}).history.length == 20


ITEM = [{"name": "item_id", "side": "item", "kind": "id", "sequence_width": 32}]


def schema_width(made: torch.nn.Module) -> int:
    return int(made.embed.width_D + made.position.embedding_dim)


def test_dropout_is_on_in_training_only_and_stands_in_attention_and_feed_forward() -> None:
    torch.manual_seed(0)
    made, batch = networks.build("bst", make_schema(), ROWS, {"dropout": 0.5}), make_batch(2, 3)
    made.train()
    calls: list[int] = []
    made.blocks[0].dropout.register_forward_hook(lambda *_: calls.append(1))
    assert not torch.equal(made(batch), made(batch)) and len(calls) == 4
    made.eval()
    assert torch.equal(made(batch), made(batch))


def test_an_unknown_network_or_option_names_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="allowed: .*bst"):
        networks.build("bert", make_schema(), ROWS)
    with pytest.raises(ValueError, match="unknown head; allowed: blocks, heads"):
        networks.build("bst", make_schema(), ROWS, {"head": 2})
    with pytest.raises(ValueError, match="network bst: blocks 0, allowed: whole number from 1"):
        networks.build("bst", make_schema(), ROWS, {"blocks": 0})
    with pytest.raises(ValueError, match="7 heads"):
        networks.build("bst", make_schema(), ROWS, {"heads": 7})


def block_by_hand(block: torch.nn.Module, s: torch.Tensor) -> torch.Tensor:
    heads = []
    for h in range(8):
        part = slice(h * 8, h * 8 + 8)
        q, k, v = (s @ getattr(block, name).weight[part].T for name in ("query", "key", "value"))  # (3)
        heads.append(torch.softmax(q @ k.T / 8**0.5, -1) @ v)  # (1)
    s = torch.nn.functional.layer_norm(s + torch.cat(heads, -1) @ block.joined.weight.T, (64,))  # (2), (5)
    inner = torch.nn.functional.leaky_relu(s @ block.inner.weight.T + block.inner.bias)
    return torch.nn.functional.layer_norm(s + inner @ block.outer.weight.T + block.outer.bias, (64,))  # (6)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_bst_is_the_papers_equations_written_row_by_row(blocks: int) -> None:
    """(1)-(8) by hand over all T + 1 rows, the target last; its row is what the MLP gets."""
    torch.manual_seed(3)
    made = networks.build("bst", make_schema(), ROWS, {"blocks": blocks}).eval()
    batch = make_batch(4, 1)
    with torch.no_grad():
        e = made.embed(batch)
        gap = torch.cat([batch["gap"], torch.ones(4, 1, dtype=torch.long)], 1)  # the target's own gap is 0: bucket 1
        rows = torch.cat([torch.cat([e.history_UTD, e.candidate_UCD], 1), made.position(gap)], -1)
        for user in range(4):
            visible = [t for t in range(T + 1) if gap[user, t] != PAD]
            f = rows[user, visible]
            for block in made.blocks:
                f = block_by_hand(block, f)
            own = {name: tensor[user : user + 1] for name, tensor in batch.items()}
            other = made.embed(own)
            by_hand = made.head(other.user_UF, torch.cat([other.other_UCF, f[-1].view(1, 1, -1)], -1))
            close(made(own), by_hand)


def test_the_networks_are_found_by_their_files() -> None:
    folder = Path(networks.__file__).parent
    assert networks.names() == sorted(
        p.stem for p in folder.glob("*.py") if p.stem not in ("__init__", "blocks", "cross_layers")
    )
