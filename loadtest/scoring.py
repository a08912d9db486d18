"""How long bare scoring takes: our graphs beside the usual export of the same weights, and beside a peer's.

    python -m loadtest.scoring [--peers] [--quick]

The bundle is BST at the paper's sizes, trained on the simulator (loadtest/bench/trained.py).
A session runs on one thread.
For 10 to 1000 candidates of users with full histories (T = 20) these take turns: ours in fp32, ours in int8, the usual
export (loadtest/bench/usual.py), which is fed the history anew with every candidate, and with --peers torch-rechub's
BST as its class stands, at the same widths (but its feed-forward is 2048 wide, torch's default; its rows are drawn at
random). Medians, and medians of the rounds' ratios. The usual export must give our fp32 scores to 1e-5, or nothing is
told; it is written by our exporter, without what that does to our networks (model/graph/merged.py).

Two tables more show what the service's choices rest on:
- cuts: a large request as one run; in pieces, one after another and two side by side; and as one run of a session that
  has two threads itself;
- joins: eight requests in one run (U = 8) beside eight runs.

The last line is JSON.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure

from loadtest import peers
from loadtest.bench import trained
from loadtest.bench.command import command, new_parser, parse
from loadtest.bench.turns import p50, ratio, take_turns
from loadtest.bench.usual import UsualBST, repeated
from loadtest.errors import NoRun
from loadtest.peers import Peer
from model import networks
from model.bundle.layout import GRAPH, INT8, INT8_GRAPH, REPORT, WEIGHTS, BundleError
from model.bundle.reading import Bundle
from model.bundle.session import Session
from model.features.batch import axes
from model.features.encode import Inputs
from model.graph.write import TOLERANCE, example_batch, write_graph
from model.networks import bst
from model.prepared.loader import Prepared
from model.training.batches import tensors

COUNTS = (10, 50, 100, 500, 1000)  # candidates
CUT, PIECES, THREADS = (500, 1000), (62, 125, 250, 500), 2
JOINED, JOIN = 8, (5, 10, 25, 50, 100)  # requests in one run, and candidates of each
FP32, INT8_SIDE, USUAL, PEER = "ours fp32", "ours int8", "usual export", "torch-rechub"
WHOLE = "one run"
COLOURS = {FP32: "#2f80d0", INT8_SIDE: "#2a9d5c", USUAL: "#d5404f", PEER: "#8a6fc0"}
Feed = dict[str, npt.NDArray[Any]]
Turn = Callable[[], list[float]]


@dataclass(frozen=True)
class Sizes:
    rounds: int = 15
    runs: int = 5  # a round, of each side and count


QUICK = Sizes(rounds=2, runs=2)


class Requests:
    """JOINED requests, encoded for any number of candidates up to the largest."""

    def __init__(self, bundle: Bundle, data: Prepared):
        self._bundle = bundle
        self._asked = trained.requests(bundle, data, JOINED, max(COUNTS), seed=1)

    def encoded(self, candidates: int) -> list[Inputs]:
        return [
            self._bundle.encode_golden(one | {"candidates": one["candidates"][:candidates]}, self._bundle.catalog)
            for one in self._asked
        ]


def network_of(bundle: Bundle) -> bst.Network:
    """The network that was exported, in torch. Raises NoRun for a bundle that holds no weights of BST."""
    if bundle.manifest["network"] != "bst" or not (bundle.folder / WEIGHTS).is_file():
        raise NoRun(f"{bundle.folder}: a bst with its {WEIGHTS} is needed, as model.train writes it")
    given = json.loads((bundle.folder / REPORT).read_text())["recipe"]["network"]
    rows = {f.name: bundle.encoder.table_rows(f) for f in bundle.schema.embedded if not f.is_float}
    network = networks.build("bst", bundle.schema, rows, given)
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


class PeersBST:
    """torch-rechub's BST as an ONNX graph; `refused` says why there is none."""

    def __init__(self, python: Path, data: Prepared, width: int, folder: Path):
        path, graph = folder / "rows.npz", folder / "peer.onnx"
        rows = trained.full_rows(data, data.schema.history.length)[:JOINED]
        peers.write_rows(path, data, rows)
        self._described, self._arrays = peers.encoded(data, rows)
        widths = [max(f.width for f in data.schema.features), width // len(data.schema.sequence)]
        with Peer(python, ["--rows", str(path)], 1) as process:
            answer = process.ask(do="export", network="BST", widths=widths, rows=0, out=str(graph))
        self.refused: str | None = answer.get("refused")
        self.session = None if self.refused else Session(graph)

    def feed(self, candidates: int, seed: int) -> Feed:
        """Rows drawn at random, every history full."""
        rng, made = np.random.default_rng(seed), {}
        for one in self._described:
            like = self._arrays[one["name"]]
            shape = (candidates, *like.shape[1:])
            drawn = rng.normal(size=shape) if one["kind"] == "dense" else rng.integers(1, one["rows"], shape)
            made[one["name"]] = drawn.astype(like.dtype)
        return made


def turn(works: Sequence[Callable[[], object]], runs: int) -> list[float]:
    """Milliseconds of `runs` of the works, after one that is not told: another side has had the caches."""
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
) -> tuple[dict[str, dict[int, list[list[float]]]], float]:
    """Milliseconds by side, count and round; and how far the usual export's scores are from ours in fp32."""
    turns: dict[str, Turn] = {}
    apart = 0.0
    for count in COUNTS:
        encoded = requests.encoded(count)
        repeats = [usual_feed(inputs) for inputs in encoded]
        for inputs, feed in zip(encoded, repeats, strict=True):
            ours, theirs = bundle.score(sessions[FP32], inputs)[0], run_of(usual, feed)()[0][:, 0]
            apart = max(apart, float(np.abs(ours - theirs).max()))
        works = {side: [run_of(session, inputs) for inputs in encoded] for side, session in sessions.items()}
        works[USUAL] = [run_of(usual, feed) for feed in repeats]
        if peer and peer.session:
            works[PEER] = [run_of(peer.session, peer.feed(count, seed)) for seed in range(JOINED)]
        turns |= {f"{side}, {count}": partial(turn, of_side, s.runs) for side, of_side in works.items()}
    if not apart <= TOLERANCE:
        raise NoRun(f"the usual export's scores are {apart:.1e} from ours, at most {TOLERANCE} is allowed")
    found = take_turns("scoring", s.rounds, turns)
    return {side: {count: found[f"{side}, {count}"] for count in COUNTS} for side in works}, apart


def pieces(inputs: Inputs, size: int) -> list[Inputs]:
    """A request in pieces of about so many candidates, of equal size to one."""
    count = inputs["item"].shape[1]
    ends = np.linspace(0, count, round(count / size) + 1).round().astype(int)
    return [
        {name: rows[:, begin:end] if "C" in axes(name) else rows for name, rows in inputs.items()}
        for begin, end in zip(ends, ends[1:], strict=False)
    ]


def joined(encoded: Sequence[Inputs]) -> Inputs:
    """Requests of equal shapes as one of U users."""
    return {name: np.concatenate([one[name] for one in encoded]) for name in encoded[0]}


def one_after_another(works: Sequence[Callable[[], object]]) -> None:
    for work in works:
        work()


def side_by_side(pool: ThreadPoolExecutor, works: Sequence[Callable[[], object]]) -> None:
    for done in [pool.submit(work) for work in works]:
        done.result()


def cuts(bundle: Bundle, sessions: Mapping[str, Session], requests: Requests, s: Sizes) -> dict[str, Any]:
    """Milliseconds by graph, count of candidates and way of running them, and over those of one run."""
    graphs = {FP32: GRAPH, INT8_SIDE: INT8_GRAPH}
    turns: dict[str, Turn] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for side, session in sessions.items():
            two = {
                f"session of {THREADS} threads": Session(bundle.folder / graphs[side], THREADS),
                f"session of {THREADS} threads, spinning": Session(bundle.folder / graphs[side], THREADS, True),
            }
            for count in CUT:
                encoded = requests.encoded(count)
                works: dict[str, list[Callable[[], object]]] = {
                    way: [run_of(one, inputs) for inputs in encoded] for way, one in {WHOLE: session, **two}.items()
                }
                for size in PIECES:
                    if size < count:
                        cut = [[run_of(session, piece) for piece in pieces(inputs, size)] for inputs in encoded]
                        works[f"{size} in turn"] = [partial(one_after_another, parts) for parts in cut]
                        works[f"{size} side by side"] = [partial(side_by_side, pool, parts) for parts in cut]
                turns |= {f"{side}, {count}, {way}": partial(turn, of_way, s.runs) for way, of_way in works.items()}
        found = take_turns("cuts", s.rounds, turns)
    figures: dict[str, Any] = {side: {count: {} for count in CUT} for side in sessions}
    for name, rounds in found.items():
        side, number, way = name.split(", ", 2)
        whole = found[f"{side}, {number}, {WHOLE}"]
        ms, over = p50(rounds), ratio(rounds, whole)
        figures[side][int(number)][way] = {"ms": ms, "over_one_run": over}
    return figures


def joins(sessions: Mapping[str, Session], requests: Requests, s: Sizes) -> dict[str, Any]:
    """Milliseconds of JOINED requests by graph and candidates of each, apart and joined, and what apart costs more."""
    turns: dict[str, Turn] = {}
    for side, session in sessions.items():
        for count in JOIN:
            encoded = requests.encoded(count)
            apart = partial(one_after_another, [run_of(session, inputs) for inputs in encoded])
            turns[f"{side}, {count}, apart"] = partial(turn, [apart], s.runs)
            turns[f"{side}, {count}, joined"] = partial(turn, [run_of(session, joined(encoded))], s.runs)
    found = take_turns("joins", s.rounds, turns)

    def figures(name: str) -> dict[str, float]:
        apart, together = found[f"{name}, apart"], found[f"{name}, joined"]
        return {
            "apart": p50(apart),
            "joined": p50(together),
            "ratio": ratio(apart, together),
        }

    return {side: {count: figures(f"{side}, {count}") for count in JOIN} for side in sessions}


def measure(bundle: Bundle, data: Prepared, python: Path | None, s: Sizes) -> tuple[dict[str, Any], str, Figure]:
    """`python` is that of the peers' environment. Raises NoRun."""
    notes, sessions = [], {FP32: bundle.session()}
    gate: dict[str, Any] = {}
    try:
        sessions[INT8_SIDE] = bundle.int8_session()
        gate = bundle.manifest[INT8]
    except BundleError as error:
        notes.append(f"no int8 figure: {error}")
    network, data = network_of(bundle), data.seen_by(bundle.schema)
    requests = Requests(bundle, data)
    with tempfile.TemporaryDirectory() as folder:
        try:
            usual = usual_export(network, data, Path(folder) / "usual.onnx")
        except ValueError as error:  # an ablation of BST
            raise NoRun(str(error)) from None
        width = network.embed.width_D + network.position.embedding_dim
        peer = PeersBST(python, data, width, Path(folder)) if python else None
        if peer and peer.refused:
            notes.append(f"no figure of {PEER}: its BST cannot be exported as it stands: {peer.refused}")
        found, apart = compare(bundle, sessions, usual, peer, requests, s)

    def over(slower: str, faster: str) -> dict[int, float]:
        if slower not in found or faster not in found:
            return {}
        return {count: ratio(found[slower][count], found[faster][count]) for count in COUNTS}

    ms = {side: {count: p50(rounds) for count, rounds in of.items()} for side, of in found.items()}
    ratios = {"fp32": over(USUAL, FP32), "int8": over(USUAL, INT8_SIDE), "peers": over(PEER, FP32)}
    figures = {
        **{f"ratio_{name}_500": of.get(500) for name, of in ratios.items()},
        "max_abs_diff_fp32": apart,
        "auc_drop_int8": gate.get("auc_drop"),
        "kendall_tau_int8": gate.get("kendall_tau"),
        "note": "; ".join(notes) or None,
        "ms": ms,
        "ratios": {name: of for name, of in ratios.items() if of},
        "cuts": cuts(bundle, sessions, requests, s),
        "joins": joins(sessions, requests, s),
        "bundle": f"{bundle.name}/{bundle.version}",
        "history": bundle.schema.history.length,
        "threads": 1,
    }
    return figures, table(figures), plot(ms)


def table(figures: Mapping[str, Any]) -> str:
    """For people."""

    def row(name: str, values: Sequence[float]) -> str:
        return f"{name:<36}" + "".join(f"{value:>9.2f}" for value in values)

    def head(name: str, columns: Sequence[int]) -> str:
        return f"{name:<36}" + "".join(f"{column:>9}" for column in columns)

    lines = [head("one thread, ms; candidates:", COUNTS)]
    lines += [row(side, list(of.values())) for side, of in figures["ms"].items()]
    pairs = {"fp32": f"{USUAL} ÷ {FP32}", "int8": f"{USUAL} ÷ {INT8_SIDE}", "peers": f"{PEER} ÷ {FP32}"}
    lines += [row(pairs[name], list(of.values())) for name, of in figures["ratios"].items()]
    lines.append(f"largest difference of scores, {USUAL} and {FP32}: {figures['max_abs_diff_fp32']:.1e}")
    if figures["kendall_tau_int8"] is not None:
        lines.append(
            f"int8 on validation: AUC falls by {figures['auc_drop_int8']:.6f}, Kendall's tau to fp32 is "
            f"{figures['kendall_tau_int8']:.4f}"
        )
    for side, by_count in figures["cuts"].items():
        lines += ["", f"{f'{side}: cuts; candidates:':<36}" + "".join(f"{f'{c}, ms':>9}{'ratio':>9}" for c in CUT)]
        for way in by_count[max(CUT)]:
            cells = [of[way].values() if way in of else ("", "") for of in by_count.values()]
            lines.append(f"{way:<36}" + "".join(f"{cell:>9.2f}" if cell else " " * 9 for two in cells for cell in two))
    for side, of_side in figures["joins"].items():
        lines += ["", head(f"{side}: {JOINED} requests, ms; candidates each:", JOIN)]
        for key, name in (("apart", f"{JOINED} runs"), ("joined", f"one run, U = {JOINED}"), ("ratio", "ratio")):
            lines.append(row(name, [one[key] for one in of_side.values()]))
    return "\n".join(lines + ([figures["note"]] if figures["note"] else []))


def plot(ms: Mapping[str, Mapping[int, float]]) -> Figure:
    figure = Figure((7, 4.5), layout="constrained")
    axes = figure.subplots()
    for side, of_side in ms.items():
        axes.plot(list(of_side), list(of_side.values()), "o-", color=COLOURS[side], label=side)
    axes.set(xscale="log", yscale="log", xlabel="candidates", ylabel="ms", title="Scoring a request on one thread")
    axes.set_xticks(COUNTS, [str(count) for count in COUNTS], minor=False)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("scoring", __doc__ or "")
    parser.set_defaults(cache=trained.CACHE)
    parser.add_argument("--peers", action="store_true", help="install torch-rechub beside the project, and measure it")
    trained.arguments(parser)
    given = parse(parser, arguments)
    trained.check(parser, given)
    sizes = QUICK if given.quick else Sizes()
    sizes = replace(sizes, rounds=given.rounds or sizes.rounds)

    def work() -> tuple[dict[str, Any], str, Figure]:
        python = peers.environment() if given.peers else None
        return measure(*trained.chosen(given, given.cache), python, sizes)

    return command("scoring", given.out, work)


if __name__ == "__main__":
    sys.exit(main())
