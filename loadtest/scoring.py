"""How long bare scoring takes: our graphs beside the usual export of the same weights, and beside a peer's.

    python -m loadtest.scoring [--peers] [--quick]

The bundle is BST at the paper's sizes, trained on the simulator (loadtest/bench/trained.py).
A session runs on one thread.
For 10 to 1000 candidates of users with full histories (T = 20) these take turns: ours in fp32, the same on tables in
fp16 and in int8, however short (model/graph/tables.py), ours in int8, the usual export (loadtest/bench/usual.py), which
is fed the history anew with every candidate, and with --peers torch-rechub's BST as its class stands, at the same
widths (but its feed-forward is 2048 wide, torch's default; its rows are drawn at random). Figures are medians, and
medians of the rounds' ratios. The usual export must give our fp32 scores to 1e-5, tables in fp16 nearly and those in
int8 roughly, or there are no figures; the usual export is written by our exporter, without what that does to our
networks (model/graph/merged.py).

The last line is JSON.
"""

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from loadtest import peers
from loadtest.bench import trained
from loadtest.bench.command import Command, Measured
from loadtest.bench.plot import plot
from loadtest.bench.turns import p50, ratio, take_turns
from loadtest.bench.usual import UsualBST, repeated
from loadtest.errors import NoRun
from loadtest.peers import Peer
from loadtest.peers.rows import encoded, write_rows
from loadtest.table import table
from model import networks
from model.bundle.layout import GRAPH, INT8, NARROW, REPORT, WEIGHTS, BundleError
from model.bundle.reading import Bundle
from model.bundle.session import Session
from model.command import run as run_command
from model.features.encode import Inputs
from model.graph.tables import narrow_graphs
from model.graph.write import TOLERANCE, example_batch, write_graph
from model.networks import bst
from model.prepared.loader import Prepared
from model.training.batches import tensors

COUNTS = (10, 50, 100, 500, 1000)  # candidates
REQUESTS = 8  # different ones, asked in turn
FP32, INT8_SIDE, USUAL, PEER = "ours fp32", "ours int8", "usual export", "torch-rechub"
ON_TABLES = {form: f"fp32, {form} tables" for form in NARROW}
NEARLY = {"fp16": 1e-3, "int8": 0.05}  # how far a score on such tables may be off; the gate of model.export is stricter
RATIOS = {"fp32": (USUAL, FP32), "int8": (USUAL, INT8_SIDE), "peers": (PEER, FP32)}
RATIOS |= {f"{form}_tables": (side, FP32) for form, side in ON_TABLES.items()}
Feed = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Sizes:
    rounds: int = 15
    runs: int = 5  # per round, of each side and count


QUICK = Sizes(rounds=2, runs=2)


class Requests:
    """REQUESTS requests, encoded for any number of candidates up to the largest."""

    def __init__(self, bundle: Bundle, data: Prepared):
        self._bundle = bundle
        self._requests = trained.requests(bundle, data, REQUESTS, max(COUNTS), seed=1)

    def encoded(self, candidates: int) -> list[Inputs]:
        return [
            self._bundle.encode_golden(one | {"candidates": one["candidates"][:candidates]}, self._bundle.catalog)
            for one in self._requests
        ]


def network_of(bundle: Bundle) -> bst.Network:
    """The network that was exported, in torch. Raises NoRun for a bundle that holds no weights of BST as they serve."""
    if bundle.tables != "fp32":
        raise NoRun(f"{bundle.folder} has {bundle.tables} tables: one with fp32 tables is needed, to make both from it")
    if bundle.manifest["network"] != "bst" or not (bundle.folder / WEIGHTS).is_file():
        raise NoRun(f"{bundle.folder}: a bst with its {WEIGHTS} is needed, as model.train writes it")
    config = json.loads((bundle.folder / REPORT).read_text())["recipe"]["network"]
    rows = {f.name: bundle.encoder.table_rows(f) for f in bundle.schema.embedded if not f.is_float}
    network = networks.build("bst", bundle.schema, rows, config)
    network.load_state_dict(torch.load(bundle.folder / WEIGHTS, weights_only=True))
    assert isinstance(network, bst.Network)
    return network.eval()


def usual_export(network: bst.Network, data: Prepared, path: Path) -> Session:
    example = {name: rows[:1] for name, rows in example_batch(data).items()}
    write_graph(UsualBST(network), repeated(example), path, form=lambda module: module.eval())  # as it stands
    return Session(path)


def usual_feed(inputs: Inputs) -> Feed:
    """The same request with a row for every candidate, each with its own copy of the user's half."""
    return {name: np.ascontiguousarray(rows.numpy()) for name, rows in repeated(tensors(inputs)).items()}


def on_tables(bundle: Bundle, folder: Path) -> dict[str, Session]:
    """Our graph on tables of each form, by its side."""
    sessions = {}
    for form, side in ON_TABLES.items():
        (folder / form).mkdir()
        narrow_graphs(bundle.folder, folder / form, form, least_rows=1)
        sessions[side] = Session(folder / form / GRAPH)
    return sessions


class PeersBST:
    """torch-rechub's BST as an ONNX graph; `refused` says why there is none."""

    def __init__(self, python: Path, data: Prepared, width: int, folder: Path):
        path, graph = folder / "rows.npz", folder / "peer.onnx"
        rows = trained.full_rows(data, data.schema.history.length)[:REQUESTS]
        write_rows(path, data, rows)
        self._described, self._arrays = encoded(data, rows)
        widths = [max(f.width for f in data.schema.features), width // len(data.schema.sequence)]
        with Peer(python, ["--rows", str(path)], 1) as process:
            answer = process.ask(do="export", network="BST", widths=widths, rows=0, out=str(graph))
        self.refused: str | None = answer.get("refused")
        self.session = None if self.refused else Session(graph)

    def feed(self, candidates: int, seed: int) -> Feed:
        """Rows drawn at random, every history full."""
        rng, feed = np.random.default_rng(seed), {}
        for one in self._described:
            like = self._arrays[one["name"]]
            shape = (candidates, *like.shape[1:])
            drawn = rng.normal(size=shape) if one["kind"] == "dense" else rng.integers(1, one["rows"], shape)
            feed[one["name"]] = drawn.astype(like.dtype)
        return feed


def turn(works: Sequence[Callable[[], object]], runs: int) -> list[float]:
    """Milliseconds of `runs` of the works, after an untimed one: another side has had the caches."""
    works[-1]()
    times = []
    for number in range(runs):
        begun = time.perf_counter()
        works[number % len(works)]()
        times.append(1000 * (time.perf_counter() - begun))
    return times


def run_of(session: Session, feed: Mapping[str, Any]) -> Callable[[], Any]:
    return partial(session.run, ["score"], {name: feed[name] for name in session.names})


def compare(
    bundle: Bundle, sessions: Mapping[str, Session], usual: Session, peer: PeersBST | None, requests: Requests, s: Sizes
) -> tuple[dict[str, dict[int, list[list[float]]]], dict[str, float]]:
    """Milliseconds by side, count and round; and by side how far scores are from ours in fp32. Raises NoRun."""
    turns: dict[str, Callable[[], list[float]]] = {}
    allowed = {USUAL: TOLERANCE} | {side: NEARLY[form] for form, side in ON_TABLES.items()}
    apart = dict.fromkeys(allowed, 0.0)
    for count in COUNTS:
        encoded = requests.encoded(count)
        repeats = [usual_feed(inputs) for inputs in encoded]
        for inputs, feed in zip(encoded, repeats, strict=True):
            ours = bundle.score(sessions[FP32], inputs)[0]
            theirs = {side: bundle.score(sessions[side], inputs)[0] for side in ON_TABLES.values()}
            theirs[USUAL] = run_of(usual, feed)()[0][:, 0]
            apart = {side: max(apart[side], float(np.abs(ours - scores).max())) for side, scores in theirs.items()}
        works = {side: [run_of(session, inputs) for inputs in encoded] for side, session in sessions.items()}
        works[USUAL] = [run_of(usual, feed) for feed in repeats]
        if peer and peer.session:
            works[PEER] = [run_of(peer.session, peer.feed(count, seed)) for seed in range(REQUESTS)]
        turns |= {f"{side}, {count}": partial(turn, of_side, s.runs) for side, of_side in works.items()}
    for side, most in allowed.items():
        if not apart[side] <= most:
            raise NoRun(f"scores of {side} are {apart[side]:.1e} from ours in fp32, at most {most} is allowed")
    times_ms = take_turns("scoring", s.rounds, turns)
    return {side: {count: times_ms[f"{side}, {count}"] for count in COUNTS} for side in works}, apart


def measure(bundle: Bundle, data: Prepared, python: Path | None, s: Sizes) -> Measured:
    """`python` is that of the peers' environment. Raises NoRun."""
    notes, sessions = [], {FP32: bundle.session()}
    gate: dict[str, Any] = {}
    try:
        sessions[INT8_SIDE] = bundle.int8_session()
        gate = bundle.manifest[INT8]
    except BundleError as error:
        notes.append(f"no int8 figure: {error}")
    network, data = network_of(bundle), data.seen_by(bundle.schema)
    with tempfile.TemporaryDirectory() as folder:
        try:
            usual = usual_export(network, data, Path(folder) / "usual.onnx")
        except ValueError as error:  # an ablation of BST
            raise NoRun(str(error)) from None
        sessions |= on_tables(bundle, Path(folder))
        width = network.embed.width_D + network.position.embedding_dim
        peer = PeersBST(python, data, width, Path(folder)) if python else None
        if peer and peer.refused:
            notes.append(f"no figure of {PEER}: its BST cannot be exported as it stands: {peer.refused}")
        times_ms, apart = compare(bundle, sessions, usual, peer, Requests(bundle, data), s)
    ms = {side: {count: p50(rounds) for count, rounds in of_side.items()} for side, of_side in times_ms.items()}
    ratios = {
        name: {count: ratio(times_ms[slower][count], times_ms[faster][count]) for count in COUNTS}
        for name, (slower, faster) in RATIOS.items()
        if slower in times_ms and faster in times_ms
    }
    figures = {
        **{f"ratio_{name}_500": ratios.get(name, {}).get(500) for name in RATIOS},
        "max_abs_diff_fp32": apart[USUAL],
        **{f"max_abs_diff_{form}_tables": apart[side] for form, side in ON_TABLES.items()},
        "auc_drop_int8": gate.get("auc_drop"),
        "kendall_tau_int8": gate.get("kendall_tau"),
        "note": "; ".join(notes) or None,
        "ms": ms,
        "ratios": ratios,
        "bundle": f"{bundle.name}/{bundle.version}",
        "history": bundle.schema.history.length,
        "threads": 1,
    }
    rows = ms | {" ÷ ".join(RATIOS[name]): of_pair for name, of_pair in ratios.items()}
    lines = [
        table("one thread, ms; candidates", COUNTS, {name: list(of.values()) for name, of in rows.items()}),
        f"largest difference of scores from {FP32}: {', '.join(f'{side} {most:.1e}' for side, most in apart.items())}",
    ]
    if gate:
        drop, tau = gate["auc_drop"], gate["kendall_tau"]
        falls = "" if drop is None else f"AUC falls by {drop:.6f}, "  # None: all impressions were trained on
        lines.append(f"int8 on {gate['split']}: {falls}Kendall's tau to fp32 is {tau:.4f}")
    return Measured(
        figures, "\n".join([*lines, *notes]), plot({"Scoring a request on one thread, ms": ms}, "candidates", "xy")
    )


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("scoring", __doc__, Sizes(), QUICK, trained.CACHE)
    command.parser.add_argument(
        "--peers", action="store_true", help="install torch-rechub beside the project, and measure it"
    )
    trained.add_options(command.parser)

    def work(args: Any, sizes: Sizes) -> Measured:
        return measure(*trained.choose(args, args.cache), peers.environment() if args.peers else None, sizes)

    return command.run(arguments, work)


if __name__ == "__main__":
    run_command(main, "scoring")
