"""The papers' table on one data set: networks trained over seeds, evaluated on test, compared in one report.

    python -m model.reproduce --data data/simulated --networks wdl,wdl_seq,din,bst,bst:b=2 --out reproduced

Seed 1 of every network comes first, then seed 2: the report, written anew after every run, is soon as wide as it gets
and narrows from there. The same command after a kill goes on where it was: a run that is done is not trained again, one
that was under way goes on from its checkpoint, one whose recipe or data has changed since is trained anew.

    OUT/report.html, report.json     model/report
    OUT/runs/<variant>/<seed>/       model/reproduction/runs.py
    OUT/scoring_times.json           of the exported models, measured side by side
    OUT/by_delay.json                --delay: their AUC where the newest behaviours are not known yet
"""

import argparse
import json
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from model import command
from model.bundle.reading import Bundle
from model.evaluation import delays
from model.evaluation.bootstrap import RESAMPLES
from model.evaluation.metrics import Floats
from model.files import write_json, write_text
from model.networks import config
from model.options import durations
from model.prepared.loader import Prepared
from model.reproduction import probes
from model.reproduction.gather import Exam, Finished, gather, standard
from model.reproduction.runs import RESULT, RUNS, Task, machine, read, say, train, versions
from model.reproduction.variants import DEFAULT, Variant, ablations, parse_all
from model.training.choosing.choice import choose

PAGE, CONTENT, TIMES, DELAYS = "report.html", "report.json", "scoring_times.json", "by_delay.json"


class ReproduceError(ValueError):
    """What cannot be reproduced from; says what was given and what is allowed."""


@dataclass(frozen=True)
class Reporter:
    """Writes the report of what is finished so far."""

    exam: Exam
    out: Path
    variants: Sequence[Variant]
    ablations: Sequence[Variant]
    planned: int
    peers: Mapping[str, Sequence[Floats]]
    common: str  # options of all variants
    trials: Mapping[str, int]  # settings tried on validation, by network or peer

    def write(self, finished: Sequence[Finished]) -> dict[str, Any]:
        from model.reproduction import page  # matplotlib: not for --help

        times_ms = {name: entry["ms"] for name, entry in kept_times(self.out, bundles_of(self.out, finished)).items()}
        content = gather(
            self.exam, self.variants, finished, self.planned, self.ablations, self.peers, times_ms, self.trials
        )
        content |= {
            "with": self.common,
            "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "versions": versions(),
            "machine": machine(),
        }
        write_json(self.out / CONTENT, content)
        write_text(self.out / PAGE, page.html(content) + "\n")
        return content


class Pace:
    """How long what is left may take: as long as the last run of each variant, else as an average one."""

    def __init__(self, tasks: Sequence[Task]):
        self.waiting = list(tasks)
        self.took_s: dict[str, float] = {}

    def done(self, task: Task, seconds: float) -> None:
        self.waiting.remove(task)
        self.took_s[task.variant.folder] = seconds

    def left(self) -> str:
        if not self.waiting:
            return "that was the last"
        average = float(np.mean(list(self.took_s.values())))
        seconds = sum(self.took_s.get(task.variant.folder, average) for task in self.waiting)
        until = datetime.now() + timedelta(seconds=seconds)
        return f"{len(self.waiting)} left, about {timedelta(seconds=round(seconds))} (until {until:%H:%M})"


def plan(data: Prepared, variants: Sequence[Variant], seeds: int, out: Path, named: str | None = None) -> list[Task]:
    """The runs in the order in which they are done; `named` is --recipe. Raises RecipeError."""
    choices = {network: choose(network, data, named) for network in dict.fromkeys(v.network for v in variants)}
    for variant in variants:
        # a value it cannot have stops before any run
        config(variant.network, variant.recipe(choices[variant.network].recipe).network)
    fingerprint = data.fingerprint
    return [
        Task(v, seed, choices[v.network], out / RUNS / v.folder / str(seed), fingerprint)
        for seed in range(1, seeds + 1)
        for v in variants
    ]


def work(tasks: Sequence[Task], data: Prepared, reporter: Reporter) -> list[Finished]:
    """Does what is not done yet. The report is written after every run, scoring times are measured after each seed."""
    known = {task.folder: task.done() for task in tasks}
    finished = [run for run in known.values() if run]
    waiting = [task for task in tasks if not known[task.folder]]
    if finished:
        say(f"{len(finished)} of {len(tasks)} runs are done already")
    pace = Pace(waiting)
    form = "{desc}: {n}/{total} |{bar}| {elapsed}{postfix}"
    with tqdm(total=len(tasks), initial=len(finished), desc="runs", bar_format=form) as bar:
        for number, task in enumerate(waiting):
            bar.set_postfix_str(task.name)
            begun = time.monotonic()
            run = train(task, data)
            finished.append(run)
            bar.update()
            if task is waiting[-1] or waiting[number + 1].seed != task.seed:
                measure_times(reporter.out, finished)
            reporter.write(finished)
            pace.done(task, time.monotonic() - begun)
            outcome = run.result["failed"] or f"AUC {run.result['figures']['auc']:.4f}"
            say(f"{task.name}: {outcome}; {pace.left()}")
    return finished


def bundles_of(out: Path, finished: Sequence[Finished]) -> dict[str, Path]:
    """One bundle of every variant, that of its first seed; a bundle's folder is its version."""
    latest_first = sorted((run for run in finished if run.scores is not None), key=lambda run: -run.seed)
    return {
        run.variant.folder: out / RUNS / run.variant.folder / str(run.seed) / run.result["bundle"]
        for run in latest_first
    }


def kept_times(out: Path, bundles: Mapping[str, Path]) -> dict[str, Any]:
    """Scoring times that were measured on these very bundles."""
    kept = json.loads((out / TIMES).read_text()) if (out / TIMES).exists() else {}
    return {name: entry for name, entry in kept.items() if name in bundles and entry["bundle"] == bundles[name].name}


def measure_times(out: Path, finished: Sequence[Finished]) -> None:
    """Measures all of them side by side where one is missing: times of different hours are not compared."""
    bundles = bundles_of(out, finished)
    if kept_times(out, bundles).keys() != bundles.keys():
        times_ms = probes.scoring_times_ms({name: Bundle.open(path) for name, path in bundles.items()})
        kept = {name: {"bundle": bundles[name].name, "ms": ms} for name, ms in times_ms.items()}
        write_json(out / TIMES, kept)


def by_delay(
    out: Path, finished: Sequence[Finished], data: Prepared, delays_s: Sequence[float]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Of every variant by label, then by seed: the exported model's figures of test by delay."""
    rows, every = data.of_split("test"), dict[str, dict[str, list[dict[str, Any]]]]()
    for run in finished:
        if run.scores is not None:
            bundle = Bundle.open(out / RUNS / run.variant.folder / str(run.seed) / run.result["bundle"])
            figures = delays.by_delay(bundle, data, rows, delays_s)
            every.setdefault(run.variant.label, {})[str(run.seed)] = figures
    return every


def delays_table(every: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], delays_s: Sequence[float]) -> str:
    """For people: the mean AUC over seeds, a line a network and a column a delay."""
    lines = [f"{'AUC by delay':<32}" + "".join(f"{f'{delay_s:g} s':>10}" for delay_s in delays_s)]
    for label, seeds in every.items():
        aucs = np.array([[row["auc"] for row in figures] for figures in seeds.values()])
        lines.append(f"{label:<32}" + "".join(f"{auc:>10.4f}" for auc in aucs.mean(0)))
    return "\n".join(lines)


def named(networks: str | None, with_ablations: bool, common: str) -> tuple[list[Variant], list[Variant]]:
    """What --networks names, and the ablations to set apart from it. Raises OptionError, ReproduceError."""
    variants = parse_all(networks.split(",") if networks else list(DEFAULT), common)
    if not with_ablations:
        return variants, []
    bst = standard("bst", variants)
    if bst is None:
        raise ReproduceError("--ablations are of bst, which --networks does not name")
    there = {variant.folder for variant in variants}
    return variants, [variant for variant in ablations(bst, common) if variant.folder not in there]


def reported(out: Path) -> tuple[list[Variant], list[Variant], int, str]:
    """The same of the report that the folder holds, of how many runs it was to be, and their common options.

    Raises ReproduceError.
    """
    if not (out / CONTENT).exists():
        raise ReproduceError(f"{out} holds no {CONTENT}; name the --networks, or have it made without --report-only")
    content = json.loads((out / CONTENT).read_text())
    entries = {label: entry for label, entry in content["networks"].items() if entry["kind"] != "peer"}
    switched = [label for label, entry in entries.items() if "switch" in entry]
    common = content["with"]
    variants = parse_all([label for label in entries if label not in switched], common)
    return variants, parse_all(switched, common) if switched else [], content["progress"]["planned"], common


def finished_runs(out: Path, variants: Sequence[Variant], data: Prepared) -> list[Finished]:
    """What is there of the variants, by whichever recipe it was made; runs on other data are left out, and said."""
    fingerprint, runs = data.fingerprint, []
    for variant in variants:
        for path in sorted((out / RUNS / variant.folder).glob(f"*/{RESULT}")):
            run = read(path.parent, variant)
            if run and run.result["identity"]["data"] == fingerprint:
                runs.append(run)
            else:
                say(f"{path.parent}: made on other data, left out")
    return runs


def read_peers(paths: Sequence[Path], rows: np.ndarray[Any, Any]) -> dict[str, list[Floats]]:
    """Other programs' scores of the test impressions, by name: arrays (n,) of .npz files, a file for each seed.

    Raises ReproduceError.
    """
    peers: dict[str, list[Floats]] = {}
    for path in paths:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                scores = {name: arrays[name] for name in arrays.files}
        except (ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:  # AttributeError: a lone .npy
            raise ReproduceError(f"{path} is no .npz file of scores: {error}") from None
        for name, score in scores.items():
            if score.shape != rows.shape or score.dtype.kind != "f" or not np.isfinite(score).all():
                raise ReproduceError(
                    f"{path}: {name!r} is {score.dtype} {score.shape}; expected are {len(rows)} finite scores, one for "
                    "each impression of test in order"
                )
            peers.setdefault(name, []).append(score)
    return peers


def read_trials(texts: Sequence[str]) -> dict[str, int]:
    """Settings tried by name, of `NAME=N`. Raises ReproduceError."""
    trials = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal():
            raise ReproduceError(f"--trials {text!r}; a network or a peer and a whole number are allowed: bst=20")
        trials[name] = int(number)
    return trials


def check(data: Prepared, out: Path) -> None:
    """Raises ReproduceError for data that no AUC can be computed on, and for a folder that is not ours."""
    label = data.label[data.of_split("test")]
    if label.sum() in (0, len(label)):
        raise ReproduceError(
            f"{data.folder}: {label.sum()} clicks among {len(label)} impressions of test; both classes are needed"
        )
    if out.exists() and not out.is_dir():
        raise ReproduceError(f"--out {out} is no folder")
    if out.is_dir() and not (out / RUNS).is_dir() and (strangers := sorted(path.name for path in out.iterdir())):
        raise ReproduceError(
            f"--out {out} holds something else ({', '.join(strangers[:3])}); name a new folder or a report's"
        )


def summary(content: Mapping[str, Any], report: Path) -> dict[str, Any]:
    """For scripts: the last line of stdout."""
    networks = {name: entry for name, entry in content["networks"].items() if "auc_mean" in entry}
    results = {name: entry for name, entry in networks.items() if entry["kind"] != "warning"}
    keys = (
        "auc_mean",
        "auc_sd",
        "ci95",
        "auc_without_repeats",
        "below_floor",
        "below_rule",
        "below_boosted",
        "recipe_from",
    )
    return {
        "report": str(report),
        "networks": {name: {key: entry.get(key) for key in keys} for name, entry in results.items()},
        "differences": {
            name: {"to": content["reference"], **entry["to_reference"]}
            for name, entry in results.items()
            if entry["to_reference"]
        },
        "order": content["order"],
        "against_peers": content["against_peers"],
        "floor_auc": content["floor_auc"],
        "gbdt_auc": content["gbdt_auc"],
        "gbdt_derived_auc": content["gbdt_derived_auc"],
        "rules": {name: rule["auc_mean"] for name, rule in content["rules"].items()},
        "gauc_coverage": content["data"]["gauc_coverage"],
        "test_opened": content["data"]["test_opened"],
        "oracle_auc": content["oracle_auc"],
        "failed": {name: entry["failed"] for name, entry in content["networks"].items() if entry["failed"]},
        "tuned_on_test": {name: entry["auc_mean"] for name, entry in networks.items() if entry["kind"] == "warning"},
    }


def table(content: Mapping[str, Any]) -> str:
    """For people: a line a network."""
    row = "{:<32} {:>7} {:>7}  {:<16}  {:<27} {}"
    lines = [row.format("network", "AUC", "SD", "95 %", f"minus {content['reference'] or '-'}, 95 %", "").rstrip()]
    for name, entry in content["networks"].items():
        remarks = [f"seed {seed} failed: {reason}" for seed, reason in entry["failed"].items()]
        if "auc_mean" not in entry:
            lines.append(f"{name:<32} {'; '.join(remarks) or 'not run yet'}")
            continue
        opponents = {"the floor": "below_floor", "a rule": "below_rule", "gradient boosting": "below_boosted"}
        remarks = [f"below {name}" for name, below in opponents.items() if entry[below]][:1] + remarks
        remarks = ["WARNING: tuned on test, no result"] * (entry["kind"] == "warning") + remarks
        (low, high), to = entry["ci95"], entry["to_reference"]
        apart = f"{to['mean']:+.4f} {to['low']:+.4f}…{to['high']:+.4f}" if to else ""
        spread = f"{entry['auc_sd']:.4f}" if entry["auc_sd"] is not None else "-"
        cells = row.format(name, f"{entry['auc_mean']:.4f}", spread, f"{low:.4f}…{high:.4f}", apart, "; ".join(remarks))
        lines.append(cells.rstrip())
    lines += [f"{'floor':<32} {content['floor_auc']:.4f}"]
    for name, key in (("gradient boosting", "gbdt_auc"), ("the same, given our features", "gbdt_derived_auc")):
        lines += [f"{name:<32} {content[key]:.4f}"] if content[key] is not None else []
    lines += [f"{'rule: ' + name:<32} {rule['auc_mean']:.4f}" for name, rule in content["rules"].items()]
    lines += [f"{'oracle':<32} {content['oracle_auc']:.4f}"] if content["oracle_auc"] is not None else []
    return "\n".join(lines)


def reproduce(arguments: argparse.Namespace) -> int:
    """The command, its arguments parsed: 0, or 1 where a run has failed. Raises ValueError, OSError, BundleError."""
    if arguments.seeds < 1 or arguments.resamples < 1:
        raise ReproduceError(f"{arguments.seeds} seeds and {arguments.resamples} resamples, at least 1 of each")
    delays_s = durations(arguments.delay, "arguments", "--delay") if arguments.delay is not None else []
    data, out = Prepared(arguments.data), arguments.out
    check(data, out)
    exam = Exam(data, arguments.resamples)
    peers, trials = read_peers(arguments.peers_scores, exam.rows), read_trials(arguments.trials)

    if arguments.report_only:
        planned, common = 0, arguments.common
        variants, switched = named(arguments.networks, arguments.ablations, common)
        if not arguments.networks:
            variants, switched, planned, common = reported(out)
        finished = finished_runs(out, [*variants, *switched], data)
        reporter = Reporter(exam, out, variants, switched, max(planned, len(finished)), peers, common, trials)
    else:
        variants, switched = named(arguments.networks, arguments.ablations, arguments.common)
        tasks = plan(data, [*variants, *switched], arguments.seeds, out, arguments.recipe)
        for network, choice in {task.variant.network: task.choice for task in tasks}.items():
            say("\n".join([f"{network}: {next(choice.lines())}", *list(choice.lines())[1:]]))
        reporter = Reporter(exam, out, variants, switched, len(tasks), peers, arguments.common, trials)
        (out / RUNS).mkdir(parents=True, exist_ok=True)
        finished = work(tasks, data, reporter)
    measure_times(out, finished)
    content = reporter.write(finished)
    print(table(content))
    line = summary(content, out / PAGE)
    if delays_s:
        line["by_delay"] = by_delay(out, finished, data, delays_s)
        write_json(out / DELAYS, {"trained_with_delay_s": data.delay_s, "by_delay": line["by_delay"]})
        print(delays_table(line["by_delay"], delays_s))
    print(f"report: {out / PAGE}")
    print(json.dumps(line))
    return 1 if any(entry["failed"] for entry in content["networks"].values()) else 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m model.reproduce", description="Train the papers' networks on one data set and compare them."
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report and of its runs")
    parser.add_argument("--networks", help=f"by commas, options by colons: bst:b=2 (default: {','.join(DEFAULT)})")
    parser.add_argument(
        "--with", dest="common", default="", metavar="OPTIONS", help="options for all of them: epochs=5:refit=false"
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME_OR_PATH",
        help="for all of them: a TOML file, or one of model/recipes by name: paper (default: as model.train)",
    )
    parser.add_argument("--seeds", type=int, default=5, help="1 … N are trained (default: %(default)s)")
    parser.add_argument("--ablations", action="store_true", help="also bst with one switch changed at a time")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="of the bootstrap (default: %(default)s)")
    parser.add_argument(
        "--peers-scores",
        type=Path,
        nargs="+",
        default=[],
        metavar="NPZ",
        help="other programs' scores of test, by name",
    )
    parser.add_argument(
        "--delay",
        metavar="DURATIONS",
        help="by commas: also the AUC where behaviours newer than each are not known yet: 0,10m,1h",
    )
    parser.add_argument(
        "--trials",
        nargs="+",
        default=[],
        metavar="NAME=N",
        help="settings that were tried on validation, for a network or a peer: bst=20 'torch-rechub BST=20'",
    )
    parser.add_argument("--report-only", action="store_true", help="rebuild the report from the runs that are done")
    arguments = parser.parse_args(argv)
    try:
        return reproduce(arguments)
    except (OSError, ValueError) as error:
        print(f"reproduce: {command.words(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("reproduce: stopped; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    command.run(main, "reproduce")
