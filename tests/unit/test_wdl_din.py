"""Wide & Deep, WDL(+Seq) and DIN by hand, one user and one candidate at a time, also with BST's time gaps; and BST's
ablations and attention."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model import networks
from model.features.ids import PAD
from model.networks.din import Dice
from tests.batches import ROWS, T, close, make_batch, make_schema, pick, strong

SIDES = ("user", "item", "context", "cross")
USERS, CANDIDATES = 4, 3


def built(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return strong(networks.build(name, make_schema(), ROWS, options))


def one_by_one(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    users, candidates = batch["item"].shape[:2]
    return [pick(batch, u, slice(c, c + 1)) for u in range(users) for c in range(candidates)]


def values(own: dict[str, Tensor]) -> dict[str, list[int]]:
    """Of one user and one candidate: the rows of every feature that is there."""
    places = {(side, name): place for side in SIDES for name, place in make_schema().places(side).items()}
    return {
        name: [row for row in own[side].flatten()[place].tolist() if row != PAD]
        for (side, name), place in places.items()
    }


def others(made: Any, own: dict[str, Tensor], sides: tuple[str, ...]) -> list[Tensor]:
    """Embeddings and numbers of the "other features" of these sides."""
    rows, found = values(own), []
    for side in sides:
        for name in make_schema().places(side):
            if name in made.embed.other:
                found.append(made.embed.other[name].weight[rows[name]].mean(0))
        if f"{side}_numbers" in own:
            found.append(own[f"{side}_numbers"].flatten())
    return found


def item(made: Any, own: dict[str, Tensor]) -> Tensor:
    rows, tables = values(own), made.embed.sequence
    return torch.cat([tables[name].weight[rows[name][0]] for name in ("item_id", "category_id")])


def with_gaps(made: Any, own: dict[str, Tensor]) -> list[Tensor]:
    """The clicked items, each with the vector of its time gap."""
    gaps = [gap for gap in own["gap"][0].tolist() if gap != PAD]
    vectors = zip(clicked(made, own), gaps, strict=True)
    return [torch.cat([vector, made.position.table.weight[gap]]) for vector, gap in vectors]


def clicked(made: Any, own: dict[str, Tensor]) -> list[Tensor]:
    tables, seen = made.embed.sequence, (own["gap"][0] != PAD).tolist()
    return [
        torch.cat([tables["item_id"].weight[row[0]], tables["category_id"].weight[row[1]]])
        for row, there in zip(own["history"][0].tolist(), seen, strict=True)
        if there
    ]


def mlp(head: Any, user: list[Tensor], candidate: list[Tensor], activation: Any = torch.relu) -> Tensor:
    """The MLP on everything side by side, its first layer in one piece."""
    weight = torch.cat([head.of_user.weight, head.of_candidate.weight], 1)
    x = weight @ torch.cat([*user, *candidate]) + head.of_candidate.bias
    for layer in head.rest:
        if isinstance(layer, torch.nn.Linear):
            x = layer.weight @ x + layer.bias
        elif not isinstance(layer, torch.nn.Dropout):
            x = activation(x) if activation is torch.relu else activation(x, layer)
    return x


def dice(s: Tensor, layer: Dice) -> Tensor:
    p = 1 / (1 + torch.exp(-(s - layer.mean) / torch.sqrt(layer.variance + 1e-8)))  # (5)
    return p * s + (1 - p) * layer.alpha * s


# ---- wide and deep


@pytest.mark.parametrize(("name", "options"), [("wdl", {}), ("wdl_seq", {}), ("wdl_seq", {"position": "gap"})])
@torch.no_grad()
def test_wide_and_deep_are_the_papers_equations_for_one_candidate_at_a_time(name: str, options: dict[str, Any]) -> None:
    made, batch = built(name, **options), make_batch(USERS, CANDIDATES)
    for own in one_by_one(batch):
        wide = sum(made.wide.weight[name].weight[rows].sum() for name, rows in values(own).items())
        user = others(made, own, ("user",))
        if name == "wdl_seq":
            vectors, width = (with_gaps(made, own), 48 + 16) if options else (clicked(made, own), 48)
            user.append(torch.stack(vectors).mean(0) if vectors else torch.zeros(width))
        deep = mlp(made.deep, user, [*others(made, own, ("item", "context", "cross")), item(made, own)])
        close(made(own)[0], wide + deep)


def test_the_wide_part_is_a_weight_for_every_id_category_and_cross_and_starts_at_zero() -> None:
    made = networks.build("wdl", make_schema(), ROWS)
    embedded = set(ROWS) - {"keyword"}  # a group's object is no feature of the wide part
    assert set(made.wide.weight) == embedded
    assert all(w.shape == (ROWS[name], 1) for name, w in ((n, t.weight) for n, t in made.wide.weight.items()))
    assert {id(p) for p in made.wide_parameters()} == {id(t.weight) for t in made.wide.weight.values()}
    assert not any(p.any() for p in made.wide_parameters())
    made(make_batch(2, 2)).sum().backward()
    assert all(p.grad is not None and p.grad.is_sparse for p in made.wide_parameters())


@torch.no_grad()
def test_a_candidate_with_two_tags_has_the_weight_of_both() -> None:
    made, batch = built("wdl"), make_batch(1, 1)
    tag = make_schema().places("item")["tags"]
    score = {}
    for tags in ((3, PAD, PAD), (PAD, 5, PAD), (3, 5, PAD), (PAD, PAD, PAD)):
        changed = batch["item"].clone()
        changed[0, 0, tag] = torch.tensor(tags)
        score[tags] = made.wide(batch | {"item": changed})
    none = score[PAD, PAD, PAD]
    close(score[3, 5, PAD] - none, (score[3, PAD, PAD] - none) + (score[PAD, 5, PAD] - none))


@torch.no_grad()
def test_wdl_with_the_history_sees_its_items_but_not_their_order() -> None:
    made, batch = built("wdl_seq"), make_batch(USERS, CANDIDATES)
    turned = {name: pick(batch, 3)[name].flip(1) for name in ("history", "gap", "action")}
    close(made(pick(batch, 3) | turned), made(pick(batch, 3)))


def test_the_wide_part_does_without_features_of_user_context_and_cross() -> None:
    schema = make_schema()
    schema = type(schema)(schema.user_id, tuple(f for f in schema.features if f.side == "item"), schema.history)
    batch = {
        name: tensor for name, tensor in make_batch(2, 3).items() if not name.startswith(("user", "context", "cross"))
    }
    assert networks.build("wdl", schema, ROWS)(batch).shape == (2, 3)


# ---- DIN


@pytest.mark.parametrize("cross_layers", [0, 1, 3])
@pytest.mark.parametrize("position", ["none", "gap"])
@torch.no_grad()
def test_din_is_the_papers_equations_for_one_candidate_at_a_time(position: str, cross_layers: int) -> None:
    """And so are DCN-V2's cross layers beside it."""
    made, batch = built("din", position=position, cross_layers=cross_layers), make_batch(USERS, CANDIDATES)
    for layer in (m for m in made.modules() if isinstance(m, Dice)):  # as after some training
        layer.mean.normal_(), layer.variance.uniform_(0.5, 2), layer.alpha.normal_()
    weights = made.attention(batch).flatten(0, 1)
    for place, own in enumerate(one_by_one(batch)):
        c, vectors = item(made, own), clicked(made, own)
        if position == "gap":  # of the candidate 0: the first bucket
            c, vectors = torch.cat([c, made.position.table.weight[1]]), with_gaps(made, own)
        interest = torch.zeros_like(c)
        for t, h in enumerate(vectors):
            x = made.unit.first.weight @ torch.cat([h, c, h - c, h * c]) + made.unit.first.bias
            for layer in made.unit.rest:
                x = dice(x, layer) if isinstance(layer, Dice) else layer.weight @ x + layer.bias
            interest += x * h  # (3): no softmax
            close(weights[place, t], x[0])
        user, other = others(made, own, ("user",)), others(made, own, ("item", "context", "cross"))
        expected = mlp(made.head, user, [*other, c, interest], dice)
        if cross_layers:
            mean = torch.stack(vectors).mean(0) if vectors else torch.zeros_like(c)
            first = x = torch.cat([*user, mean, *other, c])
            for layer in made.crosses.layers:
                x = first * (layer.weight @ x + layer.bias) + x  # (1)
            expected = expected + made.crosses.last.weight @ x
        close(made(own)[0], expected)


@torch.no_grad()
def test_din_weighs_a_behaviour_whatever_else_was_clicked() -> None:
    made, batch = built("din"), pick(make_batch(USERS, CANDIDATES), 3)
    shorter = batch | {name: batch[name][:, :2] for name in ("history", "gap", "action")}
    close(made.attention(shorter), made.attention(batch)[..., :2])
    assert not torch.allclose(made.attention(batch).sum(-1), torch.ones(1, CANDIDATES), atol=1e-2)


def test_dice_takes_the_batchs_statistics_in_training_and_their_moving_averages_elsewhere() -> None:
    layer = Dice(2)
    with torch.no_grad():
        layer.alpha.copy_(torch.tensor([0.5, -1.0]))
    s = torch.tensor([[[1.0, 10.0], [2.0, 20.0]], [[3.0, 30.0], [6.0, 60.0]]])
    mean, variance = torch.tensor([3.0, 30.0]), torch.tensor([3.5, 350.0])  # (4 + 1 + 0 + 9) / 4
    p = 1 / (1 + torch.exp(-(s - mean) / torch.sqrt(variance + 1e-8)))
    close(layer(s), p * s + (1 - p) * torch.tensor([0.5, -1.0]) * s)
    close(layer.mean, 0.1 * mean)
    close(layer.variance, 0.9 + 0.1 * variance)
    close(layer.eval()(s), dice(s, layer))


def test_the_activation_units_statistics_are_those_of_the_behaviours_that_are_there() -> None:
    made, batch = built("din").train(), make_batch(USERS, 1)
    made(batch)
    e, first = made.embed(batch), made.unit.first
    rows = [
        first.weight @ torch.cat([h, c[0], h - c[0], h * c[0]]) + first.bias
        for history, c, there in zip(e.history_UTD, e.candidate_UCD, e.mask_UT.bool(), strict=True)
        for h in history[there]
    ]
    close(made.unit.rest[0].mean, 0.1 * torch.stack(rows).mean(0))
    close(made.unit.rest[0].variance, 0.9 + 0.1 * torch.stack(rows).var(0, correction=0))


def test_padding_is_unseen_in_training_too() -> None:
    batch = make_batch(USERS, 1)
    longer = batch | {name: torch.nn.functional.pad(batch[name], (0, 9)) for name in ("gap", "action")}
    longer["history"] = torch.nn.functional.pad(batch["history"], (0, 0, 0, 9))
    longer["history"][longer["gap"] == PAD] = 7  # an item that was never clicked
    short, long = built("din").train(), built("din").train()
    close(short(batch), long(longer))
    for one, other in zip(short.buffers(), long.buffers(), strict=True):
        close(one, other)


def test_a_batch_of_new_users_trains_din_and_leaves_the_units_averages_alone() -> None:
    made = built("din").train()
    batch = {name: torch.cat([tensor] * 3) for name, tensor in pick(make_batch(USERS, 1), 0).items()}
    batch["item_numbers"] = torch.randn(3, 1, 1)  # or all three were alike, and the MLP's Dice without a deviation
    logits = made(batch)
    logits.square().sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad.to_dense()).all() for p in made.parameters() if p.grad is not None)
    layer = made.unit.rest[0]
    assert not layer.mean.any() and (layer.variance == 1).all()


PROCESS = """
import sys, torch
from model.networks.din import Dice
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
made, share = Dice(3), torch.load(f"{folder}/share-{rank}.pt").requires_grad_()
found = made(share)
(found.square().sum() / 6).backward()
torch.save([found, share.grad, made.mean, made.variance], f"{folder}/found-{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_processes_that_train_together_share_dices_statistics_and_their_gradient(tmp_path: Path) -> None:
    made, batch = Dice(3), torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = made(batch)
    (found.square().sum() / 6).backward()
    started = []
    for rank, share in enumerate((batch[:4], batch[4:])):
        torch.save(share.detach().clone(), tmp_path / f"share-{rank}.pt")
        started.append(subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), str(tmp_path)]))
    assert [process.wait() for process in started] == [0, 0]
    parts = [torch.load(tmp_path / f"found-{rank}.pt") for rank in range(2)]
    for place, whole in enumerate((found, batch.grad)):
        close(torch.cat([part[place] for part in parts]), whole)
    for part in parts:
        close(part[2], made.mean)
        close(part[3], made.variance)


# ---- BST: what it attends to, and its ablations


@pytest.mark.parametrize("blocks", [1, 2])
@torch.no_grad()
def test_bsts_attention_sums_to_one_over_what_is_visible_and_the_target(blocks: int) -> None:
    made, batch = built("bst", blocks=blocks), make_batch(USERS, CANDIDATES)
    weight_UCT = made.attention(batch)
    assert weight_UCT.shape == (USERS, CANDIDATES, T + 1)
    visible_UT = torch.nn.functional.pad(batch["gap"] != PAD, (0, 1), value=True)
    close(weight_UCT.sum(-1), torch.ones(USERS, CANDIDATES))
    assert ((weight_UCT > 0) == visible_UT.unsqueeze(1)).all()
    assert (weight_UCT[0, :, -1] == 1).all(), "who has clicked nothing attends to the target alone"


@torch.no_grad()
def test_bsts_attention_is_the_mean_of_the_heads_softmax_in_the_last_block() -> None:
    made, batch = built("bst"), make_batch(USERS, CANDIDATES)
    weight_UCT, block = made.attention(batch), made.blocks[0]
    for place, own in enumerate(one_by_one(batch)):
        gaps = [gap for gap in own["gap"][0].tolist() if gap != PAD]
        vectors = [*clicked(made, own), item(made, own)]
        rows = torch.stack([torch.cat([v, made.position.weight[g]]) for v, g in zip(vectors, [*gaps, 1], strict=True)])
        heads = []
        for h in range(8):
            part = slice(h * 8, h * 8 + 8)
            q, k = block.query.weight[part] @ rows[-1], rows @ block.key.weight[part].T
            heads.append(torch.softmax(k @ q / 8**0.5, 0))
        found = weight_UCT.flatten(0, 1)[place]
        close(torch.cat([found[: len(gaps)], found[-1:]]), torch.stack(heads).mean(0))


def other_gaps(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch | {"gap": torch.where(batch["gap"] == PAD, PAD, 1 + batch["gap"] % 20)}


def backwards(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The last user, who has a full history, with its items the other way round."""
    history = batch["history"].clone()
    history[-1] = history[-1].flip(0)
    return batch | {"history": history}


@pytest.mark.parametrize("blocks", [1, 2])
@torch.no_grad()
def test_without_positions_neither_gaps_nor_order_change_bsts_score(blocks: int) -> None:
    made, batch = built("bst", position="none", blocks=blocks), make_batch(USERS, CANDIDATES)
    assert torch.equal(made(other_gaps(batch)), made(batch))
    close(made(backwards(batch)), made(batch))


@pytest.mark.parametrize("blocks", [1, 2])
@torch.no_grad()
def test_with_index_positions_the_order_changes_bsts_score_and_the_gaps_do_not(blocks: int) -> None:
    made, batch = built("bst", position="index", blocks=blocks), make_batch(USERS, CANDIDATES)
    assert torch.equal(made(other_gaps(batch)), made(batch))
    changed = (made(backwards(batch)) - made(batch)).abs()
    assert (changed[-1] > 1e-4).all() and not changed[:-1].any()


@torch.no_grad()
def test_an_index_position_is_the_place_counted_back_from_the_target() -> None:
    """Held to BST with gaps, told by hand that the newest is in the second bucket, the one before in the third, ..."""
    by_index, by_gap = built("bst", position="index"), built("bst")
    by_gap.position.weight[: T + 2] = by_index.position.weight
    tables = by_gap.position.state_dict()
    by_gap.load_state_dict(by_index.state_dict() | {f"position.{name}": tensor for name, tensor in tables.items()})
    batch, places = make_batch(USERS, CANDIDATES), torch.full((USERS, T), PAD)
    for user in range(USERS):
        seen = int((batch["gap"][user] != PAD).sum())
        places[user, :seen] = torch.arange(1 + seen, 1, -1)
    close(by_index(batch), by_gap(batch | {"gap": places}))


@torch.no_grad()
def test_sines_and_cosines_are_of_the_place_counted_back_from_the_target() -> None:
    """Held to BST with index positions, whose table is told Vaswani's equations, written in numpy."""
    by_sines, by_index = built("bst", position="sincos"), built("bst", position="index")
    place, pair = np.arange(T + 1)[:, None], np.arange(8)
    angle = place / 10_000 ** (2 * pair / 16)
    by_index.load_state_dict(by_sines.state_dict(), strict=False)
    as_it_starts = np.sqrt(2 / (T + 2 + 16)) / np.sqrt(0.5)  # Glorot's deviation over that of a sine
    by_index.position.weight[1:] = torch.from_numpy(as_it_starts * np.concatenate([np.sin(angle), np.cos(angle)], 1))
    batch = make_batch(USERS, CANDIDATES)
    close(by_sines(batch), by_index(batch))
    assert torch.equal(by_sines(other_gaps(batch)), by_sines(batch))
    assert not any(name.startswith("position") for name in by_sines.state_dict()), "nothing of it is learnt"


@torch.no_grad()
def test_an_ablation_of_positions_keeps_bsts_width() -> None:
    positions = ("gap", "index", "sincos", "none")
    widths = {made.blocks[0].query.in_features for made in (built("bst", position=p) for p in positions)}
    assert widths == {64}
    assert not built("bst", position="none").position(torch.tensor([0])).any()


@torch.no_grad()
def test_bst_without_layer_norm_adds_and_nothing_else() -> None:
    made = built("bst", layer_norm=False)
    block, rows = made.blocks[0], torch.randn(1, 5, 64)
    heads = []
    for h in range(8):
        q, k, v = (rows[0] @ getattr(block, n).weight[h * 8 : h * 8 + 8].T for n in ("query", "key", "value"))
        heads.append(torch.softmax(q @ k.T / 8**0.5, -1) @ v)
    s = rows[0] + torch.cat(heads, -1) @ block.joined.weight.T
    inner = torch.nn.functional.leaky_relu(s @ block.inner.weight.T + block.inner.bias)
    close(block(rows, torch.zeros(1, 5))[0], s + inner @ block.outer.weight.T + block.outer.bias)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bst", {"position": "time"}, "'time', allowed: gap, index, sincos, none"),
        ("bst", {"position": "sincos", "position_width": 15}, "position_width 15, allowed: even with sincos"),
        ("din", {"position": "index"}, "'index', allowed: none, gap"),
        ("din", {"unit": ()}, "list of: whole number from 1 and at least 1 of them"),
        ("wdl", {"mlp": ()}, "mlp \\[\\], allowed: list of: whole number from 1 and at least 1 of them"),
        ("wdl_seq", {"unit": (8,)}, "unknown unit; allowed: mlp, mlp_dropout"),
    ],
)
def test_an_option_that_cannot_be_is_refused_in_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        networks.build(name, make_schema(), ROWS, options)
