"""Bundles at the paper's sizes that nobody trained: random weights cost a request as much time as learnt ones.

Features are those of the paper's Table 1: the sequence's item vector is 32 item + 16 category + 16 position = 64, the
other features sum up to 100, and a network has its default Config (BST: MLP 1024-512-256, 8 heads, one block). Items
are "i0", "i1", …, users "u0", "u1", …; each item has its row in the vocabulary, its embedding and its place in the
catalogue. Tables are drawn anew, wide enough that scores differ; a bundle passes every check that the service makes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from torch import nn
from tqdm import tqdm

from loadtest.bench.derived import made_up, matches, statistics
from loadtest.bench.users import HISTORY, NOW_MS, PROFILE, made_up_users
from loadtest.peers import ROOT
from model import networks
from model.bundle.layout import GRAPH, TABLES
from model.bundle.reading import Bundle
from model.bundle.writing import writing
from model.features import schema as features_toml
from model.features.batch import axes, stacked
from model.features.catalog import FILE, Catalog
from model.features.counts import FILE as COUNTS
from model.features.encode import Encoder, Statistics
from model.features.ids import ABSENT, FIRST, Keys, keys
from model.features.schema import Schema
from model.features.table import Vocabulary
from model.features.timeposition import bucket_count
from model.files import beside, write_json
from model.graph.tables import DATA, FORMS, narrow_graphs
from model.graph.write import check_parity, write_graph
from model.training.batches import tensors

CACHE = ROOT / ".cache" / "bundles"
TABLE_FORMS = tuple(FORMS)
FORMAT = 3  # of these bundles: another number makes the cache anew
USERS = 10_000
TAGS = 3  # at most, of an item
GOLDEN, CANDIDATES = 8, 40
CHUNK = 500_000  # ids spelt out at once
VALUES = PROFILE | {"category_id": 1_000, "shop_id": 5_000, "tags": 2_000}
NUMBERED = {"position": 50, "hour": 24}  # integers from 0


def schema(derived: bool = False, length: int = HISTORY) -> Schema:
    """The features: 32 widths of the user, 40 of the item, 12 of the context and 16 of crosses.

    With `derived` five matches, which look at 100 behaviours, two cooccurrences and five statistics beside them.
    """

    def feature(name: str, side: str, width: int, kind: str = "category", **more: Any) -> dict[str, Any]:
        return {"name": name, "side": side, "kind": kind, "type": "str", "width": width, **more}

    return features_toml.parse(
        {
            "user_id": "str",
            "history": {"length": length, "actions": ["click"]},
            "feature": [
                feature("user_id", "user", 16, "id"),
                feature("age", "user", 4),
                feature("gender", "user", 4),
                feature("city", "user", 8),
                feature("item_id", "item", 0, "id", sequence_width=32),
                feature("category_id", "item", 16, sequence_width=16),
                feature("shop_id", "item", 16),
                feature("tags", "item", 8, "multi", max_values=TAGS),
                feature("position", "context", 4, type="int", default=0),
                feature("hour", "context", 8, type="int", default=12),
                feature("age_x_item", "cross", 8, of=["age", "item_id"], buckets=100_000),
                feature("gender_x_category", "cross", 8, of=["gender", "category_id"], buckets=2_000),
                *([*matches(), *statistics()] if derived else ()),
            ],
        }
    )


def bundle(
    cache: Path = CACHE,
    network: str = "bst",
    items: int = 10_000,
    users: int = USERS,
    seed: int = 1,
    derived: bool = False,
    length: int = HISTORY,
    tables: str = "fp32",
) -> Bundle:
    """The untrained bundle of that network and that many items, from the cache where it is there; `length` is its T.

    `tables`: what its long tables are stored in, without a gate: nothing was learnt that could be lost.

    Ten million items take about two minutes, 4 GB of memory and 2.5 GB of disk. Raises ValueError for a network that
    is not there.
    """
    name = f"{network}_{items}_items_{users}_users_seed_{seed}{'_derived' * derived}_format_{FORMAT}"
    name += f"_{length}_behaviours" if length != HISTORY else ""
    name += f"_{tables}_tables" if tables != "fp32" else ""
    if not (cache / name / "current").exists():
        networks.options(network)
        facts: dict[str, Any] = {"network": network, "objective": "click", "dataset": "made_up", "trained_on": []}
        facts |= {TABLES: {"form": tables, "of": None}} if tables != "fp32" else {}
        with writing(cache, name, facts) as draft, tqdm(desc=f"making {name}", total=5, delay=1, leave=False) as bar:
            _write(draft.folder, schema(derived, length), network, items, users, seed, tables, bar)
    return Bundle.open(cache / name)


def _write(
    folder: Path, table: Schema, network: str, items: int, users: int, seed: int, tables: str, bar: "tqdm[Any]"
) -> None:
    rng, graph = np.random.default_rng(seed), folder / "model.onnx"
    (folder / "features.toml").write_text(tomli_w.dumps(table.as_dict()))
    (folder / "catalog").mkdir()
    item_keys = _numbered("i", items)
    bar.update()
    Catalog.build(table, item_keys, _columns(rng, items)).save(folder / "catalog" / FILE)
    bar.update()
    if table.counting:
        made_up(table, {"item_id": item_keys, **{name: _numbered(name, n) for name, n in VALUES.items()}}).save(
            folder / "catalog" / COUNTS, table
        )
    _encoder(table, item_keys, users).save(folder / "vocab")
    bar.update()

    unfinished = Bundle.unfinished(folder)
    requests = golden(items, users, rng, table.history.length)
    batch = tensors(stacked([unfinished.encode_golden(request) for request in requests]))
    torch.manual_seed(seed)
    sizes = {f.name: unfinished.encoder.table_rows(f) for f in table.embedded if not f.is_float}
    net = networks.build(network, table, sizes).eval()
    spread(net, batch)
    bar.update()
    write_graph(net, {name: rows[:2, :3] if "C" in axes(name) else rows[:2] for name, rows in batch.items()}, graph)
    difference = check_parity(net, unfinished)
    if tables != "fp32":
        _narrow(folder, tables)
    bar.update()

    strangers = [requests[0] | {"user_id": "nobody", "profile": {}, "behaviours": []}]
    strangers.append(requests[0] | {"candidates": ["nothing", *requests[0]["candidates"]]})
    session = unfinished.session()
    for request in (*requests, *strangers):
        request["scores"] = unfinished.score(session, unfinished.encode_golden(request))[0].tolist()
    write_json(folder / "golden.json", {"requests": [*requests, *strangers]})
    report = {"network": {"name": network}, "items": items, "seed": seed, "max_abs_diff_torch": difference}
    write_json(folder / "report.json", report | {"note": "random weights: for benchmarks of speed and memory alone"})


def _narrow(folder: Path, form: str) -> None:
    with beside(folder / form) as narrow:
        narrow.mkdir()
        narrow_graphs(folder, narrow, form)
        for file in (DATA, GRAPH):
            (narrow / file).replace(folder / file)


def _numbered(letter: str, count: int) -> Keys:
    """Keys of the ids "<letter>0", "<letter>1", …"""
    numbered = np.empty(count, np.uint64)
    for at in range(0, count, CHUNK):
        until = min(at + CHUNK, count)
        numbered[at:until] = keys([f"{letter}{number}" for number in range(at, until)], "str")
    return numbered


def _columns(rng: np.random.Generator, items: int) -> dict[str, Keys]:
    """What the catalogue says of the items: a category, a shop, and one to TAGS tags."""
    columns = {
        name: _numbered(name, VALUES[name])[rng.integers(VALUES[name], size=shape)]
        for name, shape in (("category_id", (items,)), ("shop_id", (items,)), ("tags", (items, TAGS)))
    }
    columns["tags"][np.arange(TAGS) >= rng.integers(1, TAGS + 1, (items, 1))] = ABSENT
    return columns


def _encoder(table: Schema, item_keys: Keys, users: int) -> Encoder:
    known = {name: _numbered(name, count) for name, count in VALUES.items()}
    known |= {name: np.arange(count, dtype=np.uint64) for name, count in NUMBERED.items()}
    known |= {"user_id": _numbered("u", users), "item_id": item_keys}
    vocabularies = {name: Vocabulary.build(of, FIRST + np.arange(len(of))) for name, of in known.items()}
    rows = {name: FIRST + len(of) for name, of in known.items()}
    rows |= {match.name: match.buckets_of(bucket_count(table.history.gap_edges_s)) for match in table.matches}
    return Encoder(table, vocabularies, Statistics(rows, {one.name: (0.0, 1.0) for one in table.statistics}))


def spread(network: nn.Module, batch: Mapping[str, torch.Tensor]) -> None:
    """Draws all tables anew and scales the last layer: logits of `batch` then deviate by about 1.

    As they start, tables of millions of rows are nearly 0 and every item would get the same score.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Embedding):
                # Products of two such rows deviate by 1; a table of width 1 holds summands of the logit itself.
                bound = 3**0.5 * (0.1 if module.embedding_dim == 1 else module.embedding_dim**-0.25)
                module.weight.uniform_(-bound, bound)
                module.weight[0] = 0  # PAD
        last = [m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == 1]
        if last:
            last[-1].weight /= network(batch).std()


def golden(items: int, users: int, rng: np.random.Generator, clicks: int = HISTORY) -> list[dict[str, Any]]:
    """Requests of users with full histories, not yet scored."""
    requests = []
    for user in made_up_users(GOLDEN, items, rng, clicks):
        requests.append(
            {
                "user_id": user["user_id"] if int(user["user_id"][1:]) < users else "u0",
                "profile": user["user"],
                "behaviours": user["behaviours"],
                "candidates": [f"i{number}" for number in rng.integers(items, size=CANDIDATES)],
                "context": {"hour": 20},
                "now": NOW_MS,
            }
        )
    return requests
