"""Train a network on a prepared data set, evaluate it, export it.

    python -m model.train --data data/kuairand --network bst --out bundles
    torchrun --nproc-per-node 2 -m model.train …                            data-parallel (model/training/parallel.py)
    torchrun --nproc-per-node 2 -m model.train … --shard-tables             tables in parts (model/training/sharded)

Test is opened once, at the end, for the exported model. Exit codes: 0 trained and published; 1 refused or failed;
2 wrong arguments; 3 trained and written, but not made `current` (model/graph/publish.py); 130 interrupted.
"""

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model import command, networks
from model.bundle.versions import check_name, current, prune
from model.evaluate import table
from model.files import AlreadyHeld, held
from model.prepared.loader import Prepared
from model.training.choosing.choice import choose
from model.training.recipe import Recipe, RecipeError

if TYPE_CHECKING:  # torch takes seconds to import: after the arguments are read
    from model.graph.publish import Exam, Published
    from model.training.parallel import World
    from model.training.run import Run

UNPUBLISHED, INTERRUPTED = 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parsed(argv)
    from model.graph.publish import default_name, publish
    from model.training.parallel import RankLost, World
    from model.training.warm import open_warm

    world, run = World(), None
    try:
        data = Prepared(arguments.data)
        name = check_name(
            default_name(arguments.network, data.meta["dataset"]) if arguments.name is None else arguments.name
        )
        home = arguments.out / name
        sharded = arguments.shard_tables is not None
        checkpoint = home / f".training-{arguments.seed}.{'parts' if sharded else 'pt'}"
        warm = open_warm(arguments.warm, arguments.network)
        with world.together(), _alone(home, arguments.seed, world):
            _check_left(checkpoint, arguments)
            world.agree(_facts(arguments, data))
            choice = choose(arguments.network, data, arguments.recipe, warm)  # may train, to try
            world.agree(_settings(choice.recipe))
            run = _kind_of_run(arguments)(
                data,
                arguments.network,
                choice.recipe,
                arguments.seed,
                checkpoint,
                warm=warm,
                board=_board(arguments.tensorboard) if arguments.tensorboard and world.rank == 0 else None,
                device=arguments.device,
            )
            if world.rank == 0:
                print("\n".join(choice.lines()))
            if arguments.restart and world.rank == 0:
                _drop(checkpoint)
            if arguments.resume and world.rank == 0:
                print("resumed" if run.resume() else f"nothing to resume at {checkpoint}, starting anew")
            elif arguments.resume:
                run.resume()
            exam = trained(run, arguments.final)
            told = run.lines()
            if world.rank:
                return 0
            print("".join(f"{line}\n" for line in told), end="", flush=True)
            before = current(home)
            outcome = publish(run, arguments.out, name, not arguments.publish_anyway, choice, exam)
            _drop(checkpoint)
    except RankLost as error:
        print(f"train: rank {world.rank}: {error}; {_kept(run)}", file=sys.stderr, flush=True)
        return 1
    except (OSError, ValueError) as error:
        print(f"train: {command.words(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _interrupted(run, list(sys.argv[1:] if argv is None else argv))
    finally:
        world.close()
    removed = _prune(home, arguments.keep, outcome, before)
    report(outcome, removed, run)
    return 0 if outcome.published else UNPUBLISHED


def _kind_of_run(arguments: argparse.Namespace) -> "Callable[..., Run]":
    if arguments.shard_tables is None:
        from model.training.run import Run

        return Run
    from model.training.sharded.run import ShardedRun

    return partial(ShardedRun, least_rows=arguments.shard_tables)


def _facts(arguments: argparse.Namespace, data: Prepared) -> dict[str, Any]:
    """What processes that train together must have alike before they try anything."""
    named = {f"--{name.replace('_', '-')}": getattr(arguments, name) for name in ("network", "seed", "shard_tables")}
    releases = {f"the release of {name}": metadata.version(name) for name in ("bst-ranker", "torch")}
    return {**releases, **named, f"--data {arguments.data} (sha256 of its content)": data.fingerprint}


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {f"[{table}] {name}": value for table, some in asdict(recipe).items() for name, value in some.items()}


def _drop(checkpoint: Path) -> None:
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint)
    else:
        checkpoint.unlink(missing_ok=True)


def _kept(run: "Run | None") -> str:
    if run and run.checkpoint.exists():
        return f"what is learnt is in {run.checkpoint}; the same command with --resume goes on"
    return "there was no checkpoint yet"


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.train", description="Train, evaluate and export a network.")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--network", required=True, choices=networks.names())
    parser.add_argument("--out", type=Path, required=True, help="folder of bundles")
    parser.add_argument("--name", help="of the bundle (default: <network>_<dataset>)")
    parser.add_argument(
        "--recipe",
        metavar="NAME_OR_PATH",
        help="a TOML file, or one of model/recipes by name: paper (default: the data set's, else what suits the log)",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--final", action="store_true", help="measured, then trained anew on all days, test included")
    parser.add_argument("--publish-anyway", action="store_true", help="make it `current` also below the floor")
    parser.add_argument("--keep", type=int, metavar="N", help="after publishing, remove all but the newest N versions")
    left = parser.add_mutually_exclusive_group()
    left.add_argument("--resume", action="store_true", help="go on from the checkpoint of a killed run")
    left.add_argument("--restart", action="store_true", help="drop the checkpoint of a killed run and begin anew")
    parser.add_argument("--warm", type=Path, metavar="BUNDLE", help="start from its weights (model.prepare --grow)")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="write TensorBoard logs there")
    parser.add_argument(
        "--shard-tables",
        type=int,
        nargs="?",
        const=1024,  # model/training/sharded/run.py's LEAST_ROWS
        metavar="ROWS",
        help="under torchrun: each process holds a part of every table of at least ROWS ids (default: 1024)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the GPU where there is one")
    arguments = parser.parse_args(argv)
    if arguments.seed < 0:
        parser.error(f"--seed {arguments.seed}, allowed: 0 and more")
    if arguments.keep is not None and arguments.keep < 1:
        parser.error(f"--keep {arguments.keep}, allowed: 1 and more")
    if arguments.shard_tables is not None and arguments.shard_tables < 1:
        parser.error(f"--shard-tables {arguments.shard_tables}, allowed: 1 and more")
    if arguments.shard_tables is not None and arguments.final:
        parser.error("--final with --shard-tables: not there yet; allowed: one of them")
    if arguments.out.exists() and not arguments.out.is_dir():
        parser.error(f"--out {arguments.out} is no folder")
    return arguments


def trained(run: "Run", final: bool) -> "Exam | None":
    """Fits the run; with `final` on all days in the end, and then the figures of the weights before come back.

    They are in the checkpoint of the last phase, since a run that goes on from there has nothing left to measure on.
    Raises RecipeError for such a run without `final`.
    """
    from model.graph.publish import Exam, examine
    from model.training.interrupt import stopped_by_ctrl_c

    if run.progress["phase"] == "final" and not final:
        raise RecipeError(f"{run.checkpoint} is of a run with --final; go on with --final, or --restart drops it")
    with stopped_by_ctrl_c(run):
        if run.progress["phase"] != "final":
            run.fit()
    if not final:
        return None
    if run.world.rank == 0 and run.progress["phase"] != "final":
        run.progress["exam"] = asdict(examine(run))
    with stopped_by_ctrl_c(run):
        run.fit_final()
    return Exam(**run.progress["exam"]) if run.world.rank == 0 else None


@contextmanager
def _alone(home: Path, seed: int, world: "World") -> Iterator[None]:
    """Two trainings of one name and seed would write one checkpoint: the second one is refused. Raises RecipeError.

    Of another seed they may run side by side; `current` is then the one that ends last.
    """
    if world.rank:
        yield
        return
    fresh = [folder for folder in (home, home.parent) if not folder.exists()]
    home.mkdir(parents=True, exist_ok=True)
    try:
        with held(home / f".training-{seed}.lock"):
            yield
    except AlreadyHeld as error:
        raise RecipeError(
            f"another training of seed {seed} writes to {home} (process {error.pid}); wait for it, or choose another "
            "--name, --out or --seed"
        ) from None
    finally:
        for folder in fresh:
            with suppress(OSError):  # not empty: something came of it
                folder.rmdir()


def _check_left(checkpoint: Path, arguments: argparse.Namespace) -> None:
    """Raises RecipeError where a killed run's work would be lost without a word."""
    if checkpoint.exists() and not (arguments.resume or arguments.restart):
        raise RecipeError(
            f"{checkpoint} is left of a run that did not end; --resume goes on from it, --restart drops it"
        )


def _interrupted(run: "Run | None", argv: Sequence[str]) -> int:
    if run and run.world.rank:
        return INTERRUPTED
    if run and run.fitted:
        run.save()  # trained to the end, and interrupted while it was exported
    if run and run.checkpoint.exists():
        again = [word for word in argv if word not in ("--resume", "--restart")]
        command = shlex.join(["python", "-m", "model.train", *again, "--resume"])
        print(f"train: interrupted; what is learnt is in {run.checkpoint}; to go on: {command}", file=sys.stderr)
    else:
        print("train: interrupted before there was anything to keep", file=sys.stderr)
    return INTERRUPTED


def _prune(home: Path, keep: int | None, outcome: "Published", before: str | None) -> list[str]:
    """What --keep removed: never `current`, never the version that was `current` before, to which one may go back."""
    if keep is None:
        return []
    if not outcome.published:
        print("nothing removed: --keep is for what comes after a published bundle")
        return []
    try:
        return prune(home, keep, outcome.bundle.name, before)
    except OSError as error:
        outcome.warnings.append(f"--keep {keep}: an old version could not be removed whole: {error}")
        return []


def report(outcome: "Published", removed: Sequence[str], run: "Run") -> None:
    """For people: the table, and beside it what to look at; for scripts: the last line."""
    from model.graph.publish import rows_per_s

    exam = outcome.exam
    figures = {name: value for name, value in exam.judged.items() if name != "calibration_bins"}
    if exam.split:
        print(f"figures of {exam.split}, by weights trained on {', '.join(exam.trained_on)}")
        print(table(exam.judged))
    if gain := exam.gain_over_floor:
        print(f"{'over floor':22}{gain['mean']:+.4f} (95 %: {gain['low']:+.4f} to {gain['high']:+.4f})")
    if run.trained_on != exam.trained_on:
        print(f"trained on {', '.join(run.trained_on)} after that: these weights are in the bundle, unmeasured")
    print(f"bundle: {outcome.bundle}", flush=True)
    for version in removed:
        print(f"removed: {outcome.bundle.parent / version}")
    sys.stdout.flush()
    for warning in outcome.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    line = {
        "bundle": str(outcome.bundle),
        "published": outcome.published,
        "warnings": outcome.warnings,
        "split": exam.split,
        **figures,
        "gain_over_floor": exam.gain_over_floor,
        "rows_per_s": rows_per_s(run),
        "removed": list(removed),
    }
    print(json.dumps(line))


def _board(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and only for whoever asks

    return SummaryWriter(str(folder))


if __name__ == "__main__":
    command.run(main, "train")
