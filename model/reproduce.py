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
from collections.abc import Sequence
from pathlib import Path

from model import command
from model.evaluation.bootstrap import RESAMPLES
from model.files import write_json
from model.options import durations
from model.prepared.loader import Prepared
from model.reproduction.arguments import ReproduceError, check, named, read_peers, read_trials, reported
from model.reproduction.gather import Exam
from model.reproduction.runs import RUNS, say
from model.reproduction.told import delays_table, summary, table
from model.reproduction.variants import DEFAULT
from model.reproduction.work import PAGE, Reporter, by_delay, finished_runs, measure_times, plan, work

DELAYS = "by_delay.json"


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
