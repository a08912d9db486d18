"""How long a request's encoding takes with a million items and with ten million; and with match and statistic features.

    python -m loadtest.encoding [--quick]

Thirteen features, two crosses and 20 behaviours; vocabularies and catalogue are memory-mapped, made up here and kept in
.cache/encoding. Every request draws its items uniformly, the worst case for tables: no row is warm in a cache. String
ids, and integers of the same keys. Then the same with a million items and 100 behaviours of the user, of which the
network sees 20: without derived features, with five matches that look at all 100 and two cooccurrences, with five
statistics, with both.
All take turns; figures are medians, of a difference the median of the rounds' differences. The last line is JSON.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from loadtest.bench import derived as bench
from loadtest.bench.command import Command, Measured
from loadtest.bench.turns import take_turns
from loadtest.peers import ROOT
from loadtest.table import table
from model.command import run as run_command
from model.features import schema as features_toml
from model.features.behaviour import Behaviour
from model.features.catalog import FILE, Catalog
from model.features.encode import Encoder, Statistics
from model.features.ids import ABSENT, FIRST, IdType, keys
from model.features.schema import Schema
from model.features.table import Table, Vocabulary
from model.files import replacing

CACHE = ROOT / ".cache" / "encoding"
CANDIDATES, BEHAVIOURS = (100, 500), 20
KINDS: tuple[IdType, ...] = ("str", "int")
NOW = 1_700_000_000_000
PROFILE = {"age": "3", "gender": "1", "city": "77", "os": "2"}
CONTEXT = {"position": 50, "page": 10}
VALUES = {
    "age": 10,
    "gender": 3,
    "city": 400,
    "os": 4,
    "category_id": 5_000,
    "shop_id": 50_000,
    "tags": 1_000,
} | CONTEXT
PLACES = 4  # of the multi


@dataclass(frozen=True)
class Sizes:
    few: int = 1_000_000  # items
    many: int = 10_000_000
    rounds: int = 300


QUICK = Sizes(few=500, many=2_000, rounds=3)


def schema(item_type: IdType, derived: Sequence[dict[str, Any]] = ()) -> Schema:
    def feature(name: str, side: str, kind: str = "category", **more: Any) -> dict[str, Any]:
        return {"name": name, "side": side, "kind": kind, "type": "int", "width": 8} | more

    features = [
        *(feature(name, "user") for name in PROFILE),
        feature("item_id", "item", "id", type=item_type, sequence_width=32),
        feature("category_id", "item", sequence_width=16),
        feature("shop_id", "item"),
        feature("tags", "item", "multi", max_values=PLACES),
        feature("price", "item", "number", transform="log"),
        *(feature(name, "context", default=1) for name in CONTEXT),
        feature("age_x_item", "cross", of=["age", "item_id"], buckets=100_000),
        feature("gender_x_category", "cross", of=["gender", "category_id"], buckets=1_000),
        *derived,
    ]
    return features_toml.parse({"user_id": "str", "feature": features})


def tables(cache: Path, items: int) -> Path:
    """The folder of vocabularies and catalogue of that many items, made where it is not there."""
    folder = cache / str(items)
    if folder.exists():
        return folder
    with replacing(folder) as partial:
        partial.mkdir(parents=True)
        _write_tables(partial, items)
    return folder


def _write_tables(folder: Path, items: int) -> None:
    rng, chunk = np.random.default_rng(items), 100_000
    bar = tqdm(range(0, items, chunk), f"making {items:,} items", delay=1, leave=False, disable=None)
    ids = np.concatenate([keys([f"i{n}" for n in range(at, min(items, at + chunk))], "str") for at in bar])
    for name, known in [("item_id", ids)] + [(name, np.arange(n, dtype=np.uint64)) for name, n in VALUES.items()]:
        Table.build(known, {"row": FIRST + np.arange(len(known))}).save(folder / f"{name}.npy")
    tags = rng.integers(VALUES["tags"], size=(items, PLACES)).astype(np.uint64)
    columns = {name: rng.integers(VALUES[name], size=items).astype(np.uint64) for name in ("category_id", "shop_id")}
    columns["tags"] = np.where(np.arange(PLACES) < rng.integers(PLACES + 1, size=(items, 1)), tags, ABSENT)
    Catalog.build(schema("str"), ids, {**columns, "price": rng.lognormal(3, 1, items)}).save(folder / FILE)


class Side:
    """The encoder of one size and one type of ids."""

    def __init__(self, folder: Path, items: int, kind: IdType, derived: Sequence[dict[str, Any]] = (), acted: int = 0):
        self.items, self.kind, self.rng = items, kind, np.random.default_rng(1)
        self.acted = acted or BEHAVIOURS
        known = {name: Vocabulary(Table.open(folder / f"{name}.npy")) for name in ("item_id", *VALUES)}
        features = schema(kind, derived)
        fitted = Statistics(
            {name: FIRST + n for name, n in VALUES.items()}, {one.name: (0.0, 1.0) for one in features.statistics}
        )
        values = {name: np.arange(n, dtype=np.uint64) for name, n in VALUES.items()}
        values["item_id"] = keys([f"i{n}" for n in range(items)], "str") if features.counting else values["age"]
        counts = bench.made_up(features, values) if features.counting else None
        encoder = Encoder(features, known, fitted, counts)
        self.catalog = Catalog(Table.open(folder / FILE), encoder.schema)  # one file for both types of ids
        self.encoder = encoder.ready_for(self.catalog)  # as the service does
        for keyed in (known["item_id"].table, self.catalog._table):
            keyed.buckets.view(np.uint8)[::4096].max()  # maps every page, as a service has after some minutes

    def ids(self, texts: Sequence[str]) -> list[Any]:
        """The same keys as ids of this side's type."""
        return list(texts) if self.kind == "str" else keys(texts, "str").view(np.int64).tolist()

    def round(self, candidates: int) -> float:
        """Milliseconds of one request, of items drawn anew."""
        ids = self.ids([f"i{n}" for n in self.rng.integers(self.items, size=candidates + self.acted)])
        clicks = [Behaviour("click", "item", str(i), NOW - 60_000 * n) for n, i in enumerate(ids[candidates:])]
        begun = time.perf_counter()
        self.encoder.encode("u1", PROFILE, clicks, ids[:candidates], NOW, self.catalog)
        return 1000 * (time.perf_counter() - begun)


def derived(cache: Path, sizes: Sizes) -> Measured:
    """What matches and statistics add to a request of the most candidates."""
    folder = tables(cache, sizes.few)
    of: dict[str, list[dict[str, Any]]] = {"neither": [], "matches": bench.matches(), "statistics": bench.statistics()}
    of["both"] = [*of["matches"], *of["statistics"]]
    sides = {name: Side(folder, sizes.few, "str", features, bench.MATCHED) for name, features in of.items()}
    turns = {name: partial(side.round, CANDIDATES[-1]) for name, side in sides.items()}
    ms = take_turns("derived features", sizes.rounds, turns)
    figures, rows = {"encode_ms_neither": statistics.median(ms["neither"])}, dict[str, list[float]]()
    for name in of:
        more = statistics.median(np.subtract(ms[name], ms["neither"]).tolist())
        rows[name] = [statistics.median(ms[name]), more]
        if of[name]:
            figures[f"more_ms_{name}"] = more
    what = f"ms, p50; {CANDIDATES[-1]} candidates, {bench.MATCHED} behaviours"
    return Measured(figures, table(what, ["encoding", "more than without"], rows))


def measure(cache: Path, sizes: Sizes) -> Measured:
    sized, more = of_sizes(cache, sizes), derived(cache, sizes)
    return Measured(sized.figures | more.figures, f"{sized.table}\n\n{more.table}")


def of_sizes(cache: Path, sizes: Sizes) -> Measured:
    few, many = sizes.few, sizes.many
    turns: dict[tuple[int, IdType, int], Callable[[], float]] = {}
    for items in (few, many):
        folder = tables(cache, items)
        for kind in KINDS:
            side = Side(folder, items, kind)
            turns |= {(items, kind, candidates): partial(side.round, candidates) for candidates in CANDIDATES}
    times_ms = take_turns("encoding", sizes.rounds, {str(key): turn for key, turn in turns.items()})
    ms = {key: statistics.median(times_ms[str(key)]) for key in turns}
    figures = {"encode_ms_500_1m": ms[few, "str", 500], "encode_ms_500_10m": ms[many, "str", 500]}
    figures |= {f"{name}_int": ms[n, "int", 500] for name, n in zip(list(figures), (few, many), strict=True)}
    figures["ratio_10m_over_1m"] = figures["encode_ms_500_10m"] / figures["encode_ms_500_1m"]
    rows = {}
    for kind in KINDS:
        for n in CANDIDATES:
            one, other = ms[few, kind, n], ms[many, kind, n]
            rows[f"{n} candidates, {kind}"] = [one, other, other / one]
    return Measured(figures, table("ms, p50; items", [f"{few:,}", f"{many:,}", "ratio"], rows))


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("encoding", __doc__, Sizes(), QUICK, CACHE, plots=False)
    return command.run(arguments, lambda args, sizes: measure(args.cache, sizes))


if __name__ == "__main__":
    run_command(main, "encoding")
