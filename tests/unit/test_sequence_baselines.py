"""ATRank's baselines against their equations, one user at a time, so that there is no padding to see."""

import numpy as np
import pytest
import torch

from model import networks
from model.features.ids import PAD
from model.features.schema import parse
from tests.batches import ROWS, T, make_batch, make_schema, pick, strong

WIDTH = 48  # of an item in the sequence


def network(name: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    made = strong(networks.build(name, make_schema(), ROWS, options))
    with torch.no_grad():
        for parameter_name, parameter in made.named_parameters():
            if "bias" in parameter_name:
                parameter.normal_(0, 0.3)  # they start at 0 and would hide a forgotten one
    return made


def behaviours(made: torch.nn.Module, batch: dict[str, torch.Tensor], user: int) -> torch.Tensor:
    """The user's encoded behaviours without the padding, (t, D)."""
    one = pick(batch, user)
    visible = int((one["gap"] != PAD).sum())
    rows = made.behaviours(made.embed(one).history_UTD, one["gap"], one["action"])
    return rows[0, :visible]


def head(made: torch.nn.Module, batch: dict[str, torch.Tensor], user: int, **vectors: torch.Tensor) -> torch.Tensor:
    """The ranking network on [user features, `of_user`, other features, target, `of_target`]."""
    e = made.embed(pick(batch, user))
    candidates = e.other_UCF.shape[1]
    target = made.behaviours.target(e.candidate_UCD)
    of_user = vectors.get("of_user", torch.zeros(0)).view(1, -1)
    of_target = vectors.get("of_target", torch.zeros(candidates, 0)).view(1, candidates, -1)
    return made.head(torch.cat([e.user_UF, of_user], -1), torch.cat([e.other_UCF, target, of_target], -1))[0]


def both_states(made: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """The states of torch's own bidirectional LSTM with the same weights, (t, S)."""
    both = torch.nn.LSTM(WIDTH, made.both_ways.onward.hidden_size, bidirectional=True, batch_first=True)
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        getattr(both, name).copy_(getattr(made.both_ways.onward, name))
        getattr(both, f"{name}_reverse").copy_(getattr(made.both_ways.back, name))
    return both(rows.unsqueeze(0))[0][0]


@torch.no_grad()
def test_a_behaviour_is_object_and_time_and_action() -> None:
    made, batch = network("bilstm"), make_batch(4, 1)
    rows = behaviours(made, batch, 3)
    for t in range(T):
        item, category = batch["history"][3, t]
        sequence = made.embed.sequence
        expected = torch.cat([sequence["item_id"].weight[item], sequence["category_id"].weight[category]])
        expected = expected + made.behaviours.time.weight[batch["gap"][3, t]]
        expected = expected + made.behaviours.action.weight[batch["action"][3, t]]
        torch.testing.assert_close(rows[t], expected)


@torch.no_grad()
def test_bilstm_ends_where_torchs_bidirectional_lstm_ends_without_padding() -> None:
    made, batch = network("bilstm", hidden=8), make_batch(4, 3)
    logits = made(batch)
    for user in range(4):
        rows, ends = behaviours(made, batch, user), torch.zeros(16)
        if len(rows):
            states = both_states(made, rows)
            ends = torch.cat([states[-1, :8], states[0, 8:]])
        torch.testing.assert_close(logits[user], head(made, batch, user, of_user=ends), atol=1e-5, rtol=0)


@torch.no_grad()
def test_bilstm_attention_weighs_the_states_by_the_target() -> None:
    made, batch = network("bilstm_attention", hidden=8), make_batch(4, 3)
    logits, weights = made(batch), made.attention(batch)
    for user in range(4):
        rows, interest = behaviours(made, batch, user), torch.zeros(3, 16)
        if len(rows):
            states = both_states(made, rows)
            target = made.behaviours.target(made.embed(pick(batch, user)).candidate_UCD)[0]
            weight = torch.softmax(target @ made.query.weight.T @ states.T, -1)
            interest = weight @ states
            torch.testing.assert_close(weights[user, :, : len(rows)], weight, atol=1e-5, rtol=0)
        torch.testing.assert_close(logits[user], head(made, batch, user, of_target=interest), atol=1e-5, rtol=0)


@torch.no_grad()
def test_bilstm_attention_sums_to_one_over_what_is_visible_and_to_nothing_without_behaviours() -> None:
    weight_UCT = network("bilstm_attention").attention(make_batch(4, 3))
    expected = torch.tensor([0.0, 1.0, 1.0, 1.0]).unsqueeze(1).expand(4, 3)
    torch.testing.assert_close(weight_UCT.sum(-1), expected)


@torch.no_grad()
def test_cnn_takes_the_largest_of_each_filter_over_windows_that_begin_at_a_behaviour() -> None:
    made, batch = network("cnn_maxpool", windows=(1, 3, 9), filters=5), make_batch(4, 3)
    logits = made(batch)
    for user in range(4):
        rows, found = behaviours(made, batch, user), torch.zeros(15)
        if len(rows):
            found = torch.full((15,), -1.0)
            for n, size in enumerate((1, 3, 9)):
                conv = made.windows[n]
                for begin in range(len(rows)):
                    seen = rows[begin : begin + size]  # past the newest there is nothing to add
                    value = conv.bias + sum(conv.weight[:, :, i] @ row for i, row in enumerate(seen))
                    part = slice(5 * n, 5 * n + 5)
                    found[part] = torch.maximum(found[part], torch.relu(value))
        torch.testing.assert_close(logits[user], head(made, batch, user, of_user=found), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["bilstm", "bilstm_attention", "cnn_maxpool"])
@torch.no_grad()
def test_the_order_of_behaviours_matters(name: str) -> None:
    made, batch = network(name), make_batch(4, 3)
    mirrored = dict(batch)
    for sequence in ("history", "gap", "action"):
        mirrored[sequence] = batch[sequence].clone()
        mirrored[sequence][3] = batch[sequence][3].flip(0)  # the user with a full history
    assert not torch.allclose(made(mirrored)[3], made(batch)[3], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "module"),
    [("bilstm", "both_ways"), ("bilstm_attention", "both_ways"), ("cnn_maxpool", "windows.0")],
)
@torch.no_grad()
def test_what_the_user_alone_decides_is_computed_without_a_candidate_axis(name: str, module: str) -> None:
    made, seen = network(name), []
    made.get_submodule(module).register_forward_pre_hook(lambda _, inputs: seen.append(sorted(inputs[0].shape)))
    made(make_batch(3, 50))
    assert seen == [sorted([3, T, WIDTH])]


def test_an_lstm_starts_as_tensorflows_does() -> None:
    torch.manual_seed(0)
    made = networks.build("bilstm", make_schema(), ROWS, {"hidden": 8})
    for lstm in (made.both_ways.onward, made.both_ways.back):
        assert lstm.bias_ih_l0.tolist() == [0] * 8 + [1] * 8 + [0] * 16  # input, forget, cell, output
        assert (lstm.bias_hh_l0 == 0).all()


@torch.no_grad()
def test_bpr_is_the_product_of_user_and_item_and_the_items_bias() -> None:
    made, batch = network("bpr", factors=5), make_batch(3, 4)
    logits = made(batch)
    p, q, b = (getattr(made, name).weight.numpy() for name in ("user", "item", "bias"))
    users, items = batch["user"][:, 0], batch["item"][..., 0]
    for u in range(3):
        for c in range(4):
            expected = p[users[u]] @ q[items[u, c]] + b[items[u, c], 0]
            np.testing.assert_allclose(logits[u, c], expected, atol=1e-6)


def test_bpr_is_trained_on_pairs_and_nothing_but_tables() -> None:
    made = networks.build("bpr", make_schema(), ROWS)
    assert made.objective == "pairs"
    assert sum(p.numel() for p in made.parameters()) == 10 * 64 + 40 * 64 + 40


def test_bpr_without_a_user_id_says_what_is_missing() -> None:
    item = [{"name": "item_id", "side": "item", "kind": "id", "sequence_width": 4}]
    schema = parse({"user_id": "str", "feature": item})
    with pytest.raises(ValueError, match="bpr needs the feature user_id; features.toml has item_id"):
        networks.build("bpr", schema, {"item_id": 5})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bpr", {"factors": 0}, "network bpr: factors 0, allowed: whole number from 1"),
        ("bilstm", {"hidden": 0}, "hidden 0, allowed: whole number from 1"),
        ("cnn_maxpool", {"windows": ()}, "windows .., allowed: list of: .* and at least 1 of them"),
        ("cnn_maxpool", {"windows": (0, 2)}, "windows.0 0, allowed: list of: whole number from 1"),
    ],
)
def test_an_option_that_cannot_be_is_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        networks.build(name, make_schema(), ROWS, options)
