"""The runs of a report, one after the other. It is written anew after each; scoring times are measured side by side."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from model.bundle.reading import Bundle
from model.evaluation import delays
from model.evaluation.metrics import Floats
from model.files import write_json, write_text
from model.networks import config
from model.prepared.loader import Prepared
from model.reproduction import probes
from model.reproduction.gather import Exam, Finished, gather
from model.reproduction.runs import RESULT, RUNS, Task, machine, read, say, train, versions
from model.reproduction.variants import Variant
from model.training.choosing.choice import choose

PAGE, CONTENT, TIMES = "report.html", "report.json", "scoring_times.json"


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
