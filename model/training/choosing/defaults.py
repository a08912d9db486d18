"""Settings for a log that nobody has made a recipe for: from its rows, its ids and its histories.

The paper's own (`Training()`) were made for 47 billion samples, and leave a log of some 100,000 rows below its floor.
Each rule here is one that model/LOG.md measured on several logs, and says why it was taken, for people. Training and
validation are looked at, test never; what is left to validation is when to stop.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from model import networks
from model.features.ids import UNKNOWN
from model.features.kinds import ITEM_ID, USER_ID
from model.prepared.loader import Prepared
from model.training.recipe import Recipe, Training

BATCHES = ((10_000, 128), (50_000, 256), (2_000_000, 512))  # rows below which a batch has so many; else 1024
MLPS = ((10_000, (64, 32)), (100_000, (128, 64)), (20_000_000, (256, 128, 64)))  # else the paper's
DENSE = 4_000_000  # weights of all tables up to which Adam moves every row: it costs a step some 10 ms
RATE = 0.002
PASSES, EPOCHS = 10_000_000, 40  # rows that all epochs together may visit; epochs at most
SHOWN = 20  # impressions of an item that teach it in one epoch; asked above TRIED alone
TRIED = (10_000, 1_000_000)  # rows from which on validation tells two ways apart, and up to which it is worth the time
KNOWN = 0.7  # share of validation's impressions of known items below which an item says less than what it is


AVERAGE = 0.25
AVERAGED = (
    "Exported is the running mean of the weights over a quarter of an epoch: at a rate that stays they wander about it."
)
KEPT = {"evaluations": 2, "patience": 6}
# A look at the end of each epoch: tables that have just begun say little. A higher rate: they begin often.
ANEW = {"fresh_tables": 100, "decay": 0.05, "evaluations": 1, "patience": 3}
ANEW_RATE = 0.004


@dataclass(frozen=True)
class Suited:
    recipe: Recipe
    reasons: tuple[str, ...]  # sentences for people
    rival: "Suited | None" = None  # no rule tells which of the two is better: training tries both on validation


@dataclass
class Settings:
    """Settings as the rules add them, and why."""

    network: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    features: dict[str, dict[str, int]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    anew: str = ""  # the reason among them why tables start anew


def suited(data: Prepared, network: str) -> Suited:
    """The recipe for `network` on this data set, and the reasons. Raises OptionError for an unknown network."""
    rows = len(data.of_split("train"))
    settings = Settings()
    _size(settings, rows, networks.options(network))
    kind = networks.network_type(network)
    if kind.objective == "pairs":
        _pairs(settings)
    else:
        _tables(settings, data, rows)
        _sequence_width(settings, data)
        _user_width(settings, data, reads_history="history" not in kind.unseen)
    recipe = Recipe(settings.network, Training(**settings.training), settings.features)
    rival = None
    if recipe.training.fresh_tables and TRIED[0] <= rows <= TRIED[1]:
        kept = {name: value for name, value in settings.training.items() if name not in ANEW}
        kept |= KEPT | {"learning_rate": RATE, "average": AVERAGE}
        reasons = (reason for reason in settings.reasons if reason != settings.anew)
        rival = Suited(replace(recipe, training=Training(**kept)), (*reasons, AVERAGED))
    return Suited(recipe, tuple(settings.reasons), rival)


def _size(settings: Settings, rows: int, options: Mapping[str, Any]) -> None:
    batch = next((size for below, size in BATCHES if rows < below), 1024)
    epochs = max(1, min(EPOCHS, PASSES // max(1, rows)))
    settings.training |= {"optimiser": "adam", "learning_rate": RATE, "batch_size": batch, "epochs": epochs}
    settings.training |= KEPT if epochs > 1 else {"evaluations": 4, "patience": 4}
    settings.reasons.append(
        f"Adam at {RATE} in batches of {batch} for {rows:,} rows: the paper's Adagrad at 0.01 was made for 47 billion."
    )
    settings.reasons.append(
        f"At most {epochs} epochs, ended where validation gets no better: a small log needs several, and is learnt by "
        "heart in too many."
        if epochs > 1
        else "One epoch: so many rows teach enough in one."
    )
    layers = next((layers for below, layers in MLPS if rows < below), None)
    if layers and "mlp" in options:
        settings.network["mlp"] = list(layers)
        settings.reasons.append(
            f"MLP {'-'.join(map(str, layers))}: the paper's 1024-512-256 was no better on any log measured, and slower."
        )


def _pairs(settings: Settings) -> None:
    settings.training |= {"l2": 0.05, "evaluations": 1, "patience": 3}
    settings.reasons.append("l2 0.05 on the rows of each pair: the paper's λ; without one it learns pairs by heart.")


def _tables(settings: Settings, data: Prepared, rows: int) -> None:
    """How ids are kept from being learnt by heart."""
    embedded = [f for f in data.schema.embedded if not f.is_float]
    weights = sum(data.rows[f.name] * (f.width + f.sequence_width) for f in embedded)
    if weights <= DENSE:
        settings.training |= {"lazy": False, "l2": 1e-4}
        settings.reasons.append(
            f"l2 0.0001 on every row of the tables at every step: they hold {weights:,} weights, few enough for that."
        )
    else:
        settings.reasons.append(f"A step moves the rows of its batch alone: the tables hold {weights:,} weights.")
    shown = rows / max(1, data.rows[ITEM_ID])
    if (rows <= TRIED[1] or shown >= SHOWN) and settings.training["epochs"] > 1:
        settings.training |= ANEW | {"learning_rate": ANEW_RATE}
        settings.anew = (
            f"Tables above 100 rows start anew at every epoch, at {ANEW_RATE}: what one epoch teaches of an id "
            "the next would learn by heart, while attention wants several."
        )
        settings.reasons.append(settings.anew)
    elif settings.training["epochs"] > 1:  # where the rate falls a mean gained nothing; one long epoch was not tried
        settings.training |= {"average": AVERAGE}
        settings.reasons.append(AVERAGED)


def _sequence_width(settings: Settings, data: Prepared) -> None:
    """Sequence width for what items are, where the items themselves do not come back."""
    sequence = {f.name: f.sequence_width for f in data.schema.sequence}
    others = [name for name in sequence if name != ITEM_ID]
    known = _known_items(data)
    freed = (sequence.get(ITEM_ID, 0) - 8) // 8 * 8  # a multiple of 8 in, one out: BST's heads still split the sum
    if known < KNOWN and others and freed > 0:
        settings.features[ITEM_ID] = {"sequence_width": sequence[ITEM_ID] - freed}
        settings.features[others[0]] = {"sequence_width": sequence[others[0]] + freed}
        settings.reasons.append(
            f"{freed} of the item's sequence width go to {others[0]}: of validation's impressions {known:.0%} show an "
            "item that training knows, so what an item is says more than which."
        )


def _user_width(settings: Settings, data: Prepared, reads_history: bool) -> None:
    width = next((f.width for f in data.schema.features if f.name == USER_ID), 0)
    wanted = 16 if reads_history else 32
    if 0 < width < wanted:
        settings.features[USER_ID] = {"width": wanted}
        why = "who it is carries much of what is known" if reads_history else "who it is stands in for the history"
        settings.reasons.append(f"{USER_ID} {wanted} wide instead of {width}: {why}.")


def _known_items(data: Prepared) -> float:
    """Share of validation's impressions whose item has a row of its own."""
    place = data.schema.places("item")[ITEM_ID].start
    items = data.item[data.of_split("validation")]
    return float((data.arrays["items"][items, place] != UNKNOWN).mean()) if len(items) else 1.0
