"""ATRank against its equations, written out in numpy for one user and one candidate at a time."""

from typing import Any

import numpy as np
import pytest
import torch

from model import networks
from model.features.ids import PAD
from model.features.schema import Schema, parse
from model.features.timeposition import bucket_count, time_positions

ITEM = [
    {"name": "age", "side": "user", "kind": "category", "width": 3},
    {"name": "item_id", "side": "item", "kind": "id", "width": 2, "sequence_width": 6},
    {"name": "category_id", "side": "item", "kind": "category", "sequence_width": 4},
]
KEYWORD = {"object_type": "keyword", "actions": ["search", "suggest"], "length": 3, "width": 5}
ROWS = {"age": 5, "item_id": 30, "category_id": 8, "keyword": 12}
T = 4

Array = np.ndarray[Any, Any]


def schema(*groups: dict[str, Any]) -> Schema:
    history = {"length": T, "actions": ["click", "cart", "buy"]}
    return parse({"user_id": "str", "history": history, "feature": ITEM, "group": list(groups)})


def network(of: Schema, **options: Any) -> torch.nn.Module:
    """With biases too, which start at 0 and would hide a forgotten one."""
    torch.manual_seed(0)
    made = networks.build("atrank", of, ROWS, {"width": 8, "mlp": (16, 8)} | options)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "embed" in name or "objects" in name or "behaviours" in name or name.endswith("bias"):
                parameter.normal_(0, 0.5)
        for module in made.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight[PAD] = 0
    return made.eval()


def batch(clicks: list[int], keywords: list[int] | None = None, candidates: int = 2) -> dict[str, torch.Tensor]:
    """A user for each length; with keywords where their lengths are given."""
    draw, users = np.random.default_rng(5), len(clicks)

    def sequence(suffix: str, lengths: list[int], slots: int, rows: list[int], actions: int) -> dict[str, Array]:
        padded = np.arange(slots) >= np.array(lengths)[:, None]
        made = {
            f"history{suffix}": np.stack([draw.integers(2, limit, (users, slots)) for limit in rows], -1),
            f"gap{suffix}": draw.integers(1, 28, (users, slots)),
            f"action{suffix}": draw.integers(1, 1 + actions, (users, slots)),
        }
        for array in made.values():
            array[padded] = PAD
        return made

    arrays = {
        "user": draw.integers(2, 5, (users, 1)),
        "item": np.stack([draw.integers(2, limit, (users, candidates)) for limit in (30, 8)], -1),
        **sequence("", clicks, T, [30, 8], 3),
        **(sequence("_keyword", keywords, 3, [12], 2) if keywords else {}),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def by_hand(made: torch.nn.Module, inputs: dict[str, torch.Tensor], user: int, candidate: int) -> tuple[float, Array]:
    """Logit and mean weights over the behaviours that there are, row by row and space by space."""
    p = {name: tensor.numpy() for name, tensor in made.state_dict().items()}
    x = {name: tensor.numpy() for name, tensor in inputs.items()}

    def item(ids: Array) -> Array:
        return np.concatenate(
            [p["embed.sequence.item_id.weight"][ids[0]], p["embed.sequence.category_id.weight"][ids[1]]]
        )

    def keyword(ids: Array) -> Array:
        return p["objects.0.weight"][ids[0]]

    def in_common(group: int, emb: Array, gap: int, action: int) -> Array:
        u = emb + p[f"behaviours.{group}.time.weight"][gap] + p[f"behaviours.{group}.action.weight"][action]
        return relu(p[f"common.{group}.weight"] @ u + p[f"common.{group}.bias"])  # F_M

    released = "norms.of_self.weight" in p
    s = []
    for group, (suffix, emb) in enumerate((("", item), ("_keyword", keyword))):
        if f"gap{suffix}" in x:
            gaps, actions, objects = (x[f"{name}{suffix}"][user] for name in ("gap", "action", "history"))
            there = [t for t in range(len(gaps)) if gaps[t] != PAD]
            s += [in_common(group, emb(objects[t]), gaps[t], actions[t]) for t in there]

    spaces, common = made.spaces.spaces, p["spaces.key.weight"].shape[1]
    width = common // spaces

    def space(k: int, name: str, row: Array) -> Array:  # F_Pk, F_Qk
        part = slice(k * width, (k + 1) * width)
        return relu(p[f"spaces.{name}.weight"][part] @ row + p[f"spaces.{name}.bias"][part])

    def w(k: int) -> Array:
        return p["spaces.key.weight"][k * width : (k + 1) * width]

    def attend(row: Array, to: list[Array]) -> tuple[Array, Array]:
        mixed, weights = [], []
        for k in range(spaces):
            score = np.array([space(k, "query", row) @ w(k) @ other for other in to]) * (width**-0.5 if released else 1)
            weight = np.exp(score) / np.exp(score).sum()
            mixed.append(sum(a * space(k, "value", other) for a, other in zip(weight, to, strict=True)))
            weights.append(weight)
        return np.concatenate(mixed), np.mean(weights, 0)

    def feed_forward(name: str, row: Array) -> Array:
        return around(name, row, p[f"{name}.2.weight"] @ relu(p[f"{name}.0.weight"] @ row))

    def around(part: str, row: Array, output: Array) -> Array:
        if not released:
            return output
        plus = row + output
        normal = (plus - plus.mean()) / np.sqrt(plus.var() + 1e-5)
        return p[f"norms.{part}.weight"] * normal + p[f"norms.{part}.bias"]

    target = in_common(0, item(x["item"][user, candidate]), 1, 1)  # now, by the first action
    if s:
        c = [feed_forward("of_self", around("self_attention", row, attend(row, s)[0])) for row in s]
        mixed, weight = attend(target, c)
    else:
        mixed, weight = np.zeros(len(target)), np.zeros(0)
    e = feed_forward("of_vanilla", around("vanilla_attention", target, mixed))

    other = p["embed.other.item_id.weight"][x["item"][user, candidate, 0]]
    row = p["head.of_user.weight"] @ p["embed.other.age.weight"][x["user"][user, 0]]
    row = row + p["head.of_candidate.weight"] @ np.concatenate([other, target, e]) + p["head.of_candidate.bias"]
    for layer in (2, 5):
        row = p[f"head.rest.{layer}.weight"] @ np.where(row > 0, row, 0.01 * row) + p[f"head.rest.{layer}.bias"]
    return float(row[0]), weight


def agrees_by_hand(made: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        logits, weights = made(inputs).numpy(), made.attention(inputs).numpy()
    gaps = np.concatenate([tensor.numpy() for name, tensor in inputs.items() if name.startswith("gap")], 1)
    for user in range(logits.shape[0]):
        for candidate in range(logits.shape[1]):
            logit, weight = by_hand(made, inputs, user, candidate)
            np.testing.assert_allclose(logits[user, candidate], logit, atol=1e-5)
            np.testing.assert_allclose(weights[user, candidate][gaps[user] != PAD], weight, atol=1e-5)


@pytest.mark.parametrize("spaces", [1, 2, 4])
def test_one_group_is_the_papers_equations_row_by_row(spaces: int) -> None:
    agrees_by_hand(network(schema(), spaces=spaces), batch([0, 1, 3, 4]))


@pytest.mark.parametrize("spaces", [1, 4])
def test_two_groups_are_the_papers_equations_also_for_users_with_one_kind_only(spaces: int) -> None:
    agrees_by_hand(network(schema(KEYWORD), spaces=spaces), batch([0, 4, 0, 2, 1], [0, 0, 3, 1, 3]))


@pytest.mark.parametrize("spaces", [1, 4])
def test_with_residuals_it_is_the_releases_blocks_also_for_users_without_behaviours(spaces: int) -> None:
    made = network(schema(KEYWORD), spaces=spaces, residual=True)
    with torch.no_grad():
        for norm in made.norms.values():
            norm.weight.uniform_(0.5, 2)
    agrees_by_hand(made, batch([0, 4, 0, 2, 1], [0, 0, 3, 1, 3]))


def test_every_group_has_its_own_width_and_its_own_tables() -> None:
    made = network(schema(KEYWORD))
    assert [tuple(b.time.weight.shape) for b in made.behaviours] == [(28, 10), (28, 5)]
    assert [tuple(b.action.weight.shape) for b in made.behaviours] == [(4, 10), (3, 5)]
    assert [(f.in_features, f.out_features) for f in made.common] == [(10, 8), (5, 8)]


def test_weights_sum_to_one_over_what_is_visible_and_to_nothing_without_behaviours() -> None:
    made, inputs = network(schema(KEYWORD)), batch([0, 4, 0, 2], [0, 0, 3, 1])
    with torch.no_grad():
        weight_UCT = made.attention(inputs).numpy()
    visible = np.concatenate([inputs["gap"], inputs["gap_keyword"]], 1) != PAD
    np.testing.assert_allclose(weight_UCT.sum(-1), np.repeat([[0], [1], [1], [1]], 2, 1), atol=1e-6)
    assert (weight_UCT[:, 0][~visible] == 0).all() and (weight_UCT[:, 0][visible] > 0).all()


def test_who_has_no_behaviours_is_a_vector_of_zeros() -> None:
    made, seen = network(schema(KEYWORD)), []
    made.of_vanilla.register_forward_hook(lambda _, inputs, output: seen.append(output))
    with torch.no_grad():
        made(batch([0, 2], [0, 1]))
    assert (seen[0][0] == 0).all() and (seen[0][1] != 0).any()


def test_a_gap_past_the_last_edge_is_in_the_last_bucket_and_has_a_vector_of_its_own() -> None:
    """The release made such a gap a vector of zeros."""
    of = schema()
    made, inputs, edges_s = network(of), batch([1]), of.history.gap_edges_s
    ten_years_ms = 10 * 366 * 86_400_000
    last = int(time_positions(np.zeros((1, 1), np.int64), np.array([ten_years_ms]), edges_s)[0, 0])
    assert ten_years_ms // 1000 > edges_s[-1] and last == bucket_count(edges_s) - 1
    assert (made.behaviours[0].time.weight[last] != 0).all()
    inputs["gap"][0, 0] = last
    agrees_by_hand(made, inputs)
    with torch.no_grad():
        before = made(inputs)
        made.behaviours[0].time.weight[last] += 1
        assert not torch.allclose(made(inputs), before, atol=1e-4)


def test_the_last_buckets_vector_is_learnt() -> None:
    made, inputs = network(schema()), batch([1])
    inputs["gap"][0, 0] = 27
    made(inputs).sum().backward()
    gradient = made.behaviours[0].time.weight.grad.to_dense()
    assert (gradient[27] != 0).any() and (gradient[1] != 0).any()  # the behaviour's, and the target's own


def test_what_the_user_alone_decides_is_computed_without_a_candidate_axis() -> None:
    """S and C, their values F_Q and their products with W_k; only the target has an axis of candidates."""
    made = network(schema(KEYWORD))
    seen: dict[str, list[tuple[int, ...]]] = {"query": [], "key": [], "value": [], "of_self": []}
    parts = {name: getattr(made.spaces, name) for name in ("query", "key", "value")} | {"of_self": made.of_self}
    for name, module in parts.items():
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(tuple(inputs[0].shape)))
    with torch.no_grad():
        made(batch([1, 2, 3], [1, 2, 3], candidates=50))
    once = (3, 7, 8)
    assert seen == {"query": [once, (3, 50, 8)], "key": [once] * 2, "value": [once] * 2, "of_self": [once]}


def test_spaces_that_do_not_split_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="7 spaces must split the width 64"):
        networks.build("atrank", schema(), ROWS, {"spaces": 7})
