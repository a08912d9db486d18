"""The contract of all networks, and what they share: lookup, mask, MLP head. What a paper invents stays in its file.

A tensor's name ends in its shape:

    U users (requests) in a batch · C candidates per user · T history length · D width of one item in the sequence
    F width of the other features · H heads · B rows · N table columns of one side

Nothing that depends on the user alone has a C axis: it is computed once per request, not once per candidate.
"""

from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from model.features.ids import FIRST, PAD, UNKNOWN
from model.features.kinds import Feature, Side
from model.features.schema import Schema
from model.features.timeposition import time_positions
from model.options import OptionError

Batch = Mapping[str, Tensor]  # the arrays of model/features/encode.py

CANDIDATE_SIDES: tuple[Side, ...] = ("item", "context", "cross")  # what changes with the candidate, as it is laid out

HIGHEST = 2.0  # where the last row of an ordered feature starts; the first starts at 0

MASKED = -1e9  # added to the score of a padded slot; finite, since -inf makes NaN of an empty history


class RankingNetwork(nn.Module):
    """The contract: what every file's `Network` tells those who train, export and look at it. Defaults suit most.

    A file in this folder holds a `Config`, a frozen dataclass whose every field has a default, and a
    `Network(schema, rows, config)`; `rows` are the lengths of the embedding tables, by feature name.
    """

    # Unread input: features' names, "history", "gap", "action", "groups". Where a network reads "history" or "groups",
    # a log whose histories are all empty is refused (model/training/histories.py).
    unseen: frozenset[str] = frozenset()
    objective: Literal["click", "watch_time", "pairs"] | None = None  # the only one it learns; None: the recipe's

    normalised: bool = True  # a candidate's `attention`, its own included, adds up to 1; to 0 over an empty history

    def forward(self, batch: Batch) -> Tensor:
        """One logit per candidate, (U, C)."""
        raise NotImplementedError

    def attention(self, batch: Batch) -> Tensor | None:
        """Weights of the behaviours, (U, C, T) or, with the target last, (U, C, T + 1); None: it attends to nothing.

        Padding weighs exactly 0. T runs over the items' behaviours and, unless `unseen` has "groups", then over those
        of each further group. It is what POST /rank answers to `explain` (model/graph/attention.py).
        """
        return None

    def wide_parameters(self) -> list[nn.Parameter]:
        """What FTRL trains (model/training/optimisers/ftrl.py)."""
        return []

    @property
    def head_name(self) -> str | None:
        """The path of its `Head`, whose layers int8 quantises (model/graph/quantize.py); None: has none."""
        return next((name for name, part in self.named_modules() if isinstance(part, Head)), None)


class Embedded(NamedTuple):
    history_UTD: Tensor  # sequence features of the clicked items, §2.1's W_V
    candidate_UCD: Tensor  # the same of the candidates
    mask_UT: Tensor  # 1 where there is a behaviour, 0 where there is padding
    user_UF: Tensor  # the "other features" (Table 1) that the user alone decides, W_o
    other_UCF: Tensor  # those that change with the candidate: item, context, cross


class Tables(nn.ModuleDict):
    """Modules by feature name, also where torch has the name for itself (`type`, `items`): there a `_` goes after it.

    Those of other names stand in weights and graphs as they do in `features.toml`.
    """

    _TAKEN = frozenset(dir(nn.ModuleDict())) - {"_"}

    def __init__(self, modules: Mapping[str, nn.Module]):
        self._named: dict[str, str] = {}  # the feature's name by the module's
        super().__init__(modules)

    def __setitem__(self, name: str, module: nn.Module) -> None:
        super().__setitem__(self._own(name), module)
        self._named[self._own(name)] = name

    def __getitem__(self, name: str) -> nn.Module:
        return super().__getitem__(self._own(name))

    def __contains__(self, name: object) -> bool:
        return super().__contains__(self._own(str(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._named.values())

    def items(self) -> ItemsView[str, nn.Module]:
        return {name: self._modules[own] for own, name in self._named.items()}.items()

    def _own(self, name: str) -> str:
        return f"{name}_" if name in self._TAKEN or name.rstrip("_") in self._TAKEN else name


class Lookup(nn.Module):
    """Embedding tables of one feature table. `rows` gives each table's length, by feature name."""

    def __init__(self, schema: Schema, rows: Mapping[str, int]):
        super().__init__()
        self.schema = schema
        if not schema.sequence:
            items = ", ".join(f.name for f in schema.side("item") if not f.is_float)
            raise OptionError(
                "no item feature has a sequence_width, and the network needs one at least, to know what was clicked; "
                f"allowed for: {items}; features.toml declares it, before model.prepare"
            )
        embedded = [f for f in schema.features if f.width and f.seen and not f.is_float]
        self.other = Tables({f.name: table(rows[f.name], f.width) for f in embedded})
        for feature in embedded:
            if feature.ordered:
                start_in_order(self.other[feature.name])
        self.sequence = Tables({f.name: table(rows[f.name], f.sequence_width) for f in schema.sequence})
        self.width_D = sum(f.sequence_width for f in schema.sequence)
        self.width_user_F = self._width(schema.side("user"))
        self.width_other_F = self._width([f for s in CANDIDATE_SIDES for f in schema.side(s)])

    @staticmethod
    def _width(features: Sequence[Feature]) -> int:
        return sum(1 if f.is_float else f.width for f in features if f.seen)

    def forward(self, batch: Batch) -> Embedded:
        places = self.schema.places("item")
        items = {name: batch["item"][..., places[name]] for name in self.sequence}
        clicked = {name: batch["history"][..., place] for name, place in self.schema.places("sequence").items()}
        return Embedded(
            history_UTD=torch.cat([pooled(self.sequence[name], rows) for name, rows in clicked.items()], -1),
            candidate_UCD=torch.cat([pooled(self.sequence[name], rows) for name, rows in items.items()], -1),
            mask_UT=(batch["gap"] != PAD).float(),
            user_UF=self._others(batch, ("user",)),
            other_UCF=self._others(batch, CANDIDATE_SIDES),
        )

    def _others(self, batch: Batch, sides: Sequence[Side]) -> Tensor:
        """The "other features" of some sides, side by side: (..., F)."""
        parts = []
        for side in sides:
            for name, place in self.schema.places(side).items():
                if name in self.other:
                    parts.append(pooled(self.other[name], batch[side][..., place]))
            parts += numbers_seen(batch, self.schema, side)
        return torch.cat(parts, -1) if parts else no_features(batch, sides)


def numbers_seen(batch: Batch, schema: Schema, side: Side) -> list[Tensor]:
    """The standardised numbers of a side that networks see, side by side in one tensor; [] where there are none."""
    seen = [f.seen for f in schema.side(side) if f.is_float]
    if not any(seen):
        return []
    numbers = batch[f"{side}_numbers"]
    return [numbers if all(seen) else numbers[..., [place for place, one in enumerate(seen) if one]]]


def own_gap(edges_s: Sequence[int]) -> int:
    """The time position of what happens now: the target's own."""
    now = np.zeros(1, np.int64)
    return int(time_positions(now[:, None], now, edges_s)[0, 0])


def neighbours(width: int, parts: int) -> list[int]:
    """The widths next to this one that so many parts split, those above 0."""
    below = width // parts * parts
    return [one for one in (below, below + parts) if one]


def divisors(width: int) -> list[int]:
    return [parts for parts in range(1, width + 1) if width % parts == 0]


def no_features(batch: Batch, sides: Sequence[Side]) -> Tensor:
    """Width 0, shaped like the users or the candidates."""
    return batch["gap"][:, :0].float() if sides == ("user",) else batch["item"][..., :0].float()


def table(rows: int, width: int, silent: Sequence[int] = (PAD, UNKNOWN)) -> nn.Module:
    """An embedding table; how it is made, whole or in parts, whoever builds the network decides (`tables_made_by`)."""
    return _maker.get()(rows, width, silent)


def embedding(rows: int, width: int, silent: Sequence[int] = (PAD, UNKNOWN), deviation: float = 0.0) -> nn.Embedding:
    """A whole table whose gradient is sparse: a step costs what the batch touches, not what the table holds.

    `deviation`: of the normal numbers that it starts as; 0: as `start` has it.
    """
    whole = nn.Embedding(rows, width, padding_idx=PAD, sparse=True)
    if deviation:
        whole.deviation = deviation  # for whoever starts it anew
    start(whole, silent)
    return whole


Maker = Callable[[int, int, Sequence[int]], nn.Module]  # rows, width, rows that start at 0
_maker: ContextVar[Maker] = ContextVar("maker of tables", default=embedding)


@contextmanager
def tables_made_by(maker: Maker) -> Iterator[None]:
    """Networks that are built meanwhile get tables of `maker`: modules that answer rows (…) by (…, width)."""
    token = _maker.set(maker)
    try:
        yield
    finally:
        _maker.reset(token)


def start(embedding: nn.Embedding, silent: Sequence[int] = (PAD, UNKNOWN)) -> None:
    """Glorot uniform, as TensorFlow 1.4's variables: the larger a table, the less a row says before it is learnt.

    Or normal numbers of the table's own deviation. The rows `silent` start at 0 and say nothing.
    """
    deviation = getattr(embedding, "deviation", 0.0)
    if deviation:
        nn.init.normal_(embedding.weight, 0.0, deviation)
    else:
        nn.init.xavier_uniform_(embedding.weight)
    with torch.no_grad():
        embedding.weight[list(silent)] = 0
    if getattr(embedding, "in_order", False):
        start_in_order(embedding)


def start_in_order(embedding: nn.Module) -> None:
    """The first column of the rows that tell something starts as their order, so that neighbours begin alike.

    From some thousand rows a network does not learn that 5/16 lies between 4/16 and 6/16 (model/LOG.md, 2026-11-28).
    """
    if isinstance(embedding, nn.Embedding):  # a table in parts is drawn on all ranks, and starts without
        embedding.in_order = True  # for whoever starts it anew
        with torch.no_grad():
            embedding.weight[FIRST:, 0] = torch.linspace(0, HIGHEST, len(embedding.weight) - FIRST)


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A layer that starts as TensorFlow 1.4's, with which the paper trained: Glorot uniform weights, bias 0."""
    layer = nn.Linear(inputs, outputs, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def pooled(embedding: nn.Module, rows: Tensor) -> Tensor:
    """Mean of the embeddings of a feature's values, (..., places) -> (..., width); padded places do not count."""
    if rows.shape[-1] == 1:
        return embedding(rows[..., 0])
    count = (rows != PAD).sum(-1, keepdim=True).clamp(min=1)
    return embedding(rows).sum(-2) / count


class Head(nn.Module):
    """The MLP of §2.3 on [user; candidate], its first layer split: the user's share is computed once per request.

    W·[u; c] = W_u·u + W_c·c. `activation(width)` stands between the layers; the last one gives one logit, (U, C).
    """

    def __init__(
        self,
        user: int,
        candidate: int,
        hidden: Sequence[int],
        dropout: float = 0.0,
        activation: Callable[[int], nn.Module] = lambda width: nn.LeakyReLU(),
    ):
        super().__init__()
        self.of_user = linear(user, hidden[0], bias=False) if user else None
        self.of_candidate = linear(candidate, hidden[0])
        bound = (6 / (user + candidate + hidden[0])) ** 0.5  # the two are one matrix and start as one
        for layer in (self.of_user, self.of_candidate):
            if layer is not None:
                nn.init.uniform_(layer.weight, -bound, bound)
        layers: list[nn.Module] = []
        for width, following in zip(hidden, [*hidden[1:], 1], strict=True):
            layers += [activation(width), nn.Dropout(dropout), linear(width, following)]
        self.rest = nn.Sequential(*layers)

    def forward(self, user_UF: Tensor, candidate_UCF: Tensor) -> Tensor:
        users, candidates, _ = candidate_UCF.shape
        first_BF = nn.functional.linear(candidate_UCF.flatten(0, 1), self.of_candidate.weight)
        once_F = self.of_candidate.bias
        if self.of_user is not None:
            once_F = (self.of_user(user_UF) + once_F).unsqueeze(1)  # (U, 1, F): added to a candidate's row in one go
        first_UCF = first_BF.view(users, candidates, -1) + once_F
        return self.rest(first_UCF.flatten(0, 1)).view(users, candidates)
