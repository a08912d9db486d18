"""Match and statistic features for benchmarks, and made-up counts for these: of items with a category and a shop."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from loadtest.bench.users import DAY_MS, NOW_MS
from model.features import cooccurrence
from model.features.counts import Counts, key_of_all, keys_of
from model.features.ids import Keys
from model.features.schema import Schema

MATCHED = 100  # behaviours that matches look at
PAIRED = (10, 2)  # behaviours that cooccurrences look at, as `--draft` has it
BESIDE = 20  # values that each value was seen beside
DAYS = 3  # whose counts there are


def matches() -> list[dict[str, Any]]:
    of = [(name, what) for name in ("item_id", "category_id") for what in ("count", "age")] + [("shop_id", "last")]
    common = {"side": "cross", "kind": "match", "width": 4}
    rows = [{"name": f"{name} matched {what}", "of": [name], "what": what, "length": MATCHED} for name, what in of]
    for length in PAIRED:
        rows.append({"name": f"goes with {length}", "of": ["category_id"], "what": "cooccurrence", "length": length})
    return [row | common for row in rows]


def statistics() -> list[dict[str, Any]]:
    of = [("item_id", "rate"), ("item_id", "count"), ("category_id", "rate"), ("age category_id", "rate")]
    rows = [dict[str, Any](name=f"{name} counted {what}", of=name.split(), what=what) for name, what in of]
    rows.append({"name": "clicks lately", "of": ["item_id"], "what": "clicks", "days": 7})
    return [{"side": "cross", "kind": "statistic", **row} for row in rows]


def made_up(schema: Schema, values: Mapping[str, Keys]) -> Counts:
    """Counts of all values, and of pairs of them, of what statistics and cooccurrences of a feature table are of."""
    draw, made = np.random.default_rng(2), list[Keys]()
    for name, of in {one.counted: one.of for one in schema.statistics}.items():
        first, *rest = (values[part] for part in of)
        if rest:
            first, rest = np.repeat(first, len(rest[0])), [np.tile(rest[0], len(first))]
        made += [np.array([key_of_all(name)], np.uint64), keys_of(name, [first, *rest])]
    for name in schema.paired:
        beside = cooccurrence.mixed(name, draw.choice(values[name], (len(values[name]), BESIDE)))
        made.append(cooccurrence.joined(cooccurrence.mixed(name, values[name])[:, None], beside).reshape(-1))
    every = np.unique(np.concatenate(made))
    shown = np.cumsum(draw.geometric(0.05, (len(every), DAYS)).astype(np.float64), axis=1)
    return Counts.build([NOW_MS - DAY_MS * (DAYS - n) for n in range(DAYS)], every, shown, np.floor(0.1 * shown))
