"""Variants of networks by name: `bst:b=2`, `bst:position=none:dropout=0`, `din:mlp=64-32:learning_rate=0.001`.

After the network, options by colons: fields of its Config, fields of Training, `T=N` (or `history=N`), the recipe's
[history] length, and `without=match-statistic`, kinds of features that it does not see. They go on top of the recipe
that the network has on the data set.
"""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

from annotated_types import MinLen

from model import networks
from model.options import Count, OptionError, from_text, hints, wrong
from model.training.recipe import Derived, Recipe, Training

ALIASES = {"b": "blocks", "T": "history"}  # the paper's letter in Table 4, and that of a history's length
HISTORY, WITHOUT = "history", "without"
Kinds = Annotated[tuple[Derived, ...], MinLen(1)]

DEFAULT = (  # BST's Table 4, then ATRank's table
    *("wdl", "wdl_seq", "din", "bst", "bst:b=2", "bst:b=3"),
    *("bpr", "bilstm", "bilstm_attention", "cnn_maxpool", "atrank"),
)
ABLATIONS = {  # one switch each
    "position=index": "the place in the sequence instead of the time gap",
    "position=sincos": "sines and cosines of that place, with which §2.1 compares",
    "position=none": "neither time gap nor place",
    "layer_norm=false": "no LayerNorm in (5) and (6)",
    "history=5": "the newest 5 behaviours",
    "history=10": "the newest 10 behaviours",
    "history=50": "the newest 50 behaviours",
    "history=100": "the newest 100 behaviours",
    "history=200": "the newest 200 behaviours",
    "select=test": "the checkpoint is picked on test",
}


@dataclass(frozen=True)
class Variant:
    """A network with options; `label` is the name as it was given."""

    label: str
    network: str
    options: tuple[tuple[str, Any], ...] = ()  # sorted by name

    @property
    def folder(self) -> str:
        """Names the folder of its runs; the same however its options were ordered or abbreviated."""
        return ",".join([self.network, *(f"{name}={_text(value)}" for name, value in self.options)])

    @property
    def peeks(self) -> bool:
        """Picks its checkpoint on test: what it reaches there is no result."""
        return dict(self.options).get("select") == "test"

    @property
    def blocks(self) -> int:
        """BST's b; 1 where nothing is said of it."""
        return int(dict(self.options).get("blocks", 1))

    def recipe(self, base: Recipe) -> Recipe:
        """A recipe of the network with the options on top. Raises OptionError."""
        own, options = networks.options(self.network), dict(self.options)
        of_training = {f.name for f in fields(Training)} - set(own)
        history = base.history | ({"length": int(options[HISTORY])} if HISTORY in options else {})
        without: list[Derived] = list(options.get(WITHOUT, ()))
        return replace(
            base,
            network=base.network | {name: value for name, value in options.items() if name in own},
            training=replace(base.training, **{name: options[name] for name in of_training & set(options)}),
            history=history,
            inputs={"without": without} if without else base.inputs,
        )


def parse(label: str, common: str = "") -> Variant:
    """The variant of a name, with the `common` options that it does not set itself.

    Raises OptionError for an unknown network or option, or a value of the wrong type.
    """
    network, *parts = label.split(":")
    own = {_name(part) for part in parts}
    parts += [part for part in common.split(":") if part and _name(part) not in own]
    types = {HISTORY: Count, WITHOUT: Kinds} | hints(Training) | hints(networks.config_type(network))
    options: dict[str, Any] = {}
    for part in parts:
        name, (_, equals, text) = _name(part), part.partition("=")
        if not equals or name not in types or name in options:
            raise wrong(label, "option", part, f"once each and as name=value: {', '.join(types)}")
        options[name] = from_text(types[name], text, label, name)
    return Variant(label, network, tuple(sorted(options.items())))


def parse_all(labels: list[str], common: str = "") -> list[Variant]:
    """The variants of several names, each once. Raises OptionError, also where none is named."""
    variants: dict[str, Variant] = {}
    for label in labels:
        variant = parse(label, common)
        variants.setdefault(variant.folder, variant)
    if not variants:
        raise OptionError("no network is named")
    return list(variants.values())


def ablations(of: Variant, common: str = "") -> list[Variant]:
    """The variants of ABLATIONS, each one switch away from `of`; without switches that `of` has set already."""
    taken = {name for name, _ in of.options}
    return [parse(f"{of.label}:{switch}", common) for switch in ABLATIONS if _name(switch) not in taken]


def _name(option: str) -> str:
    name = option.partition("=")[0]
    return ALIASES.get(name, name)


def _text(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
