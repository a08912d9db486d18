"""What a search may draw: the rooms of a recipe, as a TOML file names them, and a draw as a recipe.

Each setting is either a range, `low`, `high` (and `log = true`), or `choices`; a list of layers is one choice, written
as in a recipe. `when = { optimiser = "adam" }` draws a setting only where another of its room, named before it, has
that value; elsewhere it has its default, since the start's own may not go with the draw. `pairs` are the choices of a
network that learns pairs in the stead of the others; with none, `pairs = []`, it has that setting from the start.

    [training], [network]   settings of a recipe; those that a network does not have are passed over
    [features]              `width`, `sequence_width`: factors on the widths that the start has, of all features at once
    [history]               `length`
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Protocol, get_args, get_origin

from model import networks
from model.features.schema import Schema
from model.options import Count, OptionError, Positive, check_value, from_text, hints, refuse_unknown, wrong
from model.training.recipe import Recipe, Training, adapted

Bounds = dict[str, Any]  # {"low": ..., "high": ..., "log": true}, {"choices": [...]}, either with "when"
Rooms = dict[str, dict[str, Bounds]]  # {"training": {"learning_rate": ...}}; settings are drawn in this order
Settings = Mapping[str, Any]  # {"training.learning_rate": 0.002, "network.mlp": "128-64"}: as optuna keeps them

FACTORS = ("width", "sequence_width")
HEADS = 8  # a scaled sequence width stays a multiple, so that BST's heads still split the sum


class Draws(Protocol):
    """What is needed of an optuna.Trial."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float: ...


def load_rooms(path: Path, network: str) -> Rooms:
    """The settings to search, without those that the network does not have. Raises OptionError."""
    try:
        space = tomllib.loads(path.read_text("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: {error}") from None
    known = {
        "training": list(hints(Training)),
        "network": sorted({o for n in networks.names() for o in networks.options(n)}),
        "features": list(FACTORS),
        "history": ["length"],
    }
    refuse_unknown(space, known, str(path))
    for room, settings in space.items():
        where = f"{path}: [{room}]"
        if not isinstance(settings, dict):
            raise wrong(str(path), room, settings, "a table of settings")
        refuse_unknown(settings, known[room], where)
        for place, (name, bounds) in enumerate(settings.items()):
            if not _is_range(bounds):
                allowed = "numbers low < high (with log above 0) or choices = [...]"
                allowed += "; when = { setting = value }; pairs = [...]"
                raise wrong(where, name, bounds, allowed)
            refuse_unknown(bounds.get("when", {}), list(settings)[:place], f"{where}: when of {name}")
    own = hints(networks.config_type(network))
    pairs = networks.network_type(network).objective == "pairs"
    of_network = {
        room: {
            name: _of_objective(bounds, pairs) for name, bounds in settings.items() if room != "network" or name in own
        }
        for room, settings in space.items()
    }
    searched = {room: {name: of for name, of in settings.items() if of} for room, settings in of_network.items()}
    if not any(searched.values()):
        raise OptionError(f"{path} names no setting that {network} has")
    return searched


def _of_objective(bounds: Bounds, pairs: bool) -> Bounds | None:
    """What a network that learns pairs, or clicks, draws; None: nothing."""
    own = {name: value for name, value in bounds.items() if name != "pairs"}
    if not pairs or "pairs" not in bounds:
        return own
    when = {"when": own["when"]} if "when" in own else {}
    return {"choices": bounds["pairs"]} | when if bounds["pairs"] else None


def _is_range(bounds: Any) -> bool:
    if not isinstance(bounds, dict) or set(bounds) - {"low", "high", "log", "choices", "when", "pairs"}:
        return False
    if not isinstance(bounds.get("pairs", []), list):
        return False
    if not isinstance(bounds.get("when", {}), dict):
        return False
    if "choices" in bounds:
        choices = bounds["choices"]
        return isinstance(choices, list) and len(choices) > 0 and not set(bounds) & {"low", "high", "log"}
    low, high = bounds.get("low"), bounds.get("high")
    if not all(isinstance(edge, int | float) and not isinstance(edge, bool) for edge in (low, high)):
        return False
    return low < high and (low > 0 or not bounds.get("log"))


class Space:
    """What is drawn around a start. It is widened to hold the start: a search must be able to find what it begins with.

    Settings go by the names under which optuna keeps them, "training.learning_rate", and lists as texts, "128-64".
    Raises OptionError for a value that no recipe can have.
    """

    def __init__(self, rooms: Rooms, network: str, start: Recipe, schema: Schema):
        self.network, self.start = network, start
        self.schema = adapted(schema, start)
        self._hints: dict[str, dict[str, Any]] = {
            "training": hints(Training),
            "network": hints(networks.config_type(network)),
            "features": dict.fromkeys(FACTORS, Positive),
            "history": {"length": Count},
        }
        values: dict[str, Mapping[str, Any]] = {
            "training": asdict(start.training),
            "network": networks.options(network) | start.network,
            "features": dict.fromkeys(FACTORS, 1.0),
            "history": {"length": self.schema.history.length},
        }
        self._values = {room: {name: _kept(value) for name, value in of.items()} for room, of in values.items()}
        self.rooms = {
            room: {name: _holding(bounds, self._values[room][name]) for name, bounds in of.items()}
            for room, of in rooms.items()
        }
        for room, name, bounds in self._bounds():  # else every trial would find it anew
            for value in bounds.get("choices", [bounds.get("low"), bounds.get("high")]):
                check_value(self._hints[room][name], self._value(room, name, value), f"space: [{room}]", name)

    def drawn(self, trial: Draws) -> Settings:
        """One draw of every setting that applies."""
        settings: dict[str, Any] = {}
        for room, name, bounds in self._bounds():
            if _applies(bounds, room, settings):
                settings[f"{room}.{name}"] = _draw(trial, f"{room}.{name}", bounds)
        return settings

    def starting(self) -> Settings:
        """The start as a draw. A zero in a range by logarithm cannot be drawn: there the first trial is any value."""
        settings: dict[str, Any] = {}
        for room, name, bounds in self._bounds():
            value = self._values[room][name]
            if _applies(bounds, room, settings) and not (bounds.get("log") and value <= 0):
                settings[f"{room}.{name}"] = value
        return settings

    def recipe(self, settings: Settings) -> Recipe:
        """The start with a draw's settings. Raises OptionError for a draw that no run can have."""
        rooms: dict[str, dict[str, Any]] = {"training": {}, "network": {}, "features": {}, "history": {}}
        for room, name, bounds in self._bounds():
            if f"{room}.{name}" in settings:
                rooms[room][name] = self._value(room, name, settings[f"{room}.{name}"])
            elif "when" in bounds:  # the start's own may not go with the draw
                rooms[room][name] = (asdict(Training()) if room == "training" else networks.options(self.network))[name]
        return replace(
            self.start,
            training=replace(self.start.training, **rooms["training"]),
            network=self.start.network | rooms["network"],
            features=self.start.features | self._widths(rooms["features"]),
            history=self.start.history | rooms["history"],
        )

    def _bounds(self) -> Iterator[tuple[str, str, Bounds]]:
        return ((room, name, bounds) for room, of in self.rooms.items() for name, bounds in of.items())

    def _value(self, room: str, name: str, value: Any) -> Any:
        hint = self._hints[room][name]
        kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if isinstance(value, str) and get_origin(kind) is tuple:
            return from_text(hint, value, f"[{room}]", name)
        return value

    def _widths(self, factors: Mapping[str, float]) -> dict[str, dict[str, int]]:
        """The widths that differ, of features that have one."""
        of_feature: dict[str, dict[str, int]] = {}
        for feature in self.schema.embedded if any(factor != 1 for factor in factors.values()) else ():
            now = {name: getattr(feature, name) for name in FACTORS}
            step = {"width": 1, "sequence_width": HEADS}
            scaled = {
                name: step[name] * max(1, round(now[name] * factor / step[name]))
                for name, factor in factors.items()
                if now[name] and factor != 1
            }
            if scaled:
                of_feature[feature.name] = self.start.features.get(feature.name, {}) | scaled
        return of_feature


def _holding(bounds: Bounds, value: Any) -> Bounds:
    if "choices" in bounds:
        kept = [_kept(choice) for choice in bounds["choices"]]
        return bounds | {"choices": kept if value in kept else [value, *kept]}
    if bounds.get("log") and value <= 0:
        return bounds
    return bounds | {"low": min(bounds["low"], value), "high": max(bounds["high"], value)}


def _draw(trial: Draws, name: str, bounds: Bounds) -> Any:
    if "choices" in bounds:
        return trial.suggest_categorical(name, bounds["choices"])
    low, high, log = bounds["low"], bounds["high"], bounds.get("log", False)
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)


def _applies(bounds: Bounds, room: str, settings: Settings) -> bool:
    return all(settings.get(f"{room}.{name}") == value for name, value in bounds.get("when", {}).items())


def _kept(value: Any) -> Any:
    """A value as optuna keeps it: it has no lists, so layers become a text, 128-64."""
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else value
