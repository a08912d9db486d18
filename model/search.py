"""Search a recipe's settings with optuna, on validation only; the best ones become a recipe file.

    python -m model.search --data data/kuairand --network bst --trials 30 --out bst_kuairand.toml

The recipe that `model.train` would take is the start: what the space does not name stays as it is, and its own settings
are the first trial. A trial whose validation AUC falls behind the median of the others at the same look is ended early.
Test is not opened. Trials are kept beside the output (`<out>.db`), so that a search that was killed goes on.
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import tomli_w
from tqdm import tqdm

from model import command, networks
from model.files import write_text
from model.options import OptionError, hints, refuse_unknown, wrong
from model.prepared.loader import Prepared
from model.training.choice import choose
from model.training.recipe import Recipe, Training
from model.training.run import Run, TrainingError

SPACE = Path(__file__).with_suffix(".toml")
Space = dict[str, dict[str, dict[str, Any]]]  # {"training": {"learning_rate": {"low": ..., "high": ..., "log": true}}}


class Trial(Run):
    """A run that tells optuna of every look at validation, and ends where optuna says."""

    trial: optuna.Trial

    def look(self) -> None:
        super().look()
        self.trial.report(self.progress["curve"][-1]["picked_by"], len(self.progress["curve"]))
        if self.trial.should_prune():
            raise optuna.TrialPruned


def load_space(path: Path, network: str) -> Space:
    """The settings to search, without those that the network does not have. Raises OptionError."""
    try:
        space = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{path}: {error}") from None
    own = networks.config_type(network)
    known = {"training": hints(Training), "network": {o for n in networks.names() for o in networks.options(n)}}
    refuse_unknown(space, known, str(path))
    for room, settings in space.items():
        where = f"{path}: [{room}]"
        if not isinstance(settings, dict):
            raise wrong(str(path), room, settings, "a table of settings")
        refuse_unknown(settings, known[room], where)
        for name, bounds in settings.items():
            if not _is_range(bounds):
                allowed = "numbers low < high (with log above 0) or choices = [...]"
                raise wrong(where, name, bounds, allowed)
    searched = {
        "training": space.get("training", {}),
        "network": {name: bounds for name, bounds in space.get("network", {}).items() if name in hints(own)},
    }
    if not searched["training"] and not searched["network"]:
        raise OptionError(f"{path} names no setting that {network} has")
    return searched


def _is_range(bounds: Any) -> bool:
    if not isinstance(bounds, dict) or set(bounds) - {"low", "high", "log", "choices"}:
        return False
    if "choices" in bounds:
        return isinstance(bounds["choices"], list) and len(bounds["choices"]) > 0
    low, high = bounds.get("low"), bounds.get("high")
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return False
    return low < high and (low > 0 or not bounds.get("log"))


def drawn(trial: optuna.Trial, space: Space) -> dict[str, dict[str, Any]]:
    """One draw of every setting."""

    def value(name: str, bounds: Mapping[str, Any]) -> Any:
        if "choices" in bounds:
            return trial.suggest_categorical(name, bounds["choices"])
        draw = trial.suggest_int if isinstance(bounds["low"], int) else trial.suggest_float
        return draw(name, bounds["low"], bounds["high"], log=bounds.get("log", False))

    return {room: {name: value(f"{room}.{name}", bounds) for name, bounds in of.items()} for room, of in space.items()}


def with_settings(recipe: Recipe, settings: Mapping[str, Mapping[str, Any]]) -> Recipe:
    return replace(
        recipe,
        network=recipe.network | dict(settings["network"]),
        training=replace(recipe.training, **settings["training"]),
    )


def search(data: Prepared, network: str, start: Recipe, space: Space, trials: int, seed: int, storage: Path) -> Any:
    """The finished study. Raises what a Run raises; a trial whose loss is no number counts as pruned."""
    study = optuna.create_study(
        study_name=f"{network} {data.fingerprint[:12]}",
        storage=f"sqlite:///{storage}",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    if not study.trials:
        defaults = {"training": asdict(start.training), "network": networks.options(network) | start.network}
        inside = {
            f"{r}.{n}": defaults[r][n] for r, of in space.items() for n, b in of.items() if _allows(b, defaults[r][n])
        }
        study.enqueue_trial(inside)

    def objective(trial: optuna.Trial) -> float:
        recipe = with_settings(start, drawn(trial, space))
        recipe = replace(recipe, training=replace(recipe.training, refit=False, select="validation"))
        with TemporaryDirectory() as folder:
            run = Trial(data, network, recipe, seed, Path(folder) / "checkpoint.pt")
            run.trial = trial
            try:
                run.fit()
            except TrainingError as error:
                raise optuna.TrialPruned(str(error)) from None
        trial.set_user_attr("looks", len(run.progress["curve"]))
        return float(run.progress["best"])

    done = sum(trial.state.is_finished() for trial in study.trials)
    with tqdm(total=trials, initial=min(done, trials), unit="trial") as bar:

        def show(study: optuna.Study, trial: Any) -> None:
            bar.update()
            finished = [t.value for t in study.trials if t.value is not None]
            bar.set_postfix_str(f"best {max(finished):.4f}" if finished else "")

        study.optimize(objective, n_trials=max(0, trials - done), callbacks=[show])
    return study


def _allows(bounds: Mapping[str, Any], value: Any) -> bool:
    return value in bounds["choices"] if "choices" in bounds else bounds["low"] <= value <= bounds["high"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.search", description="Search a recipe's settings.")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--network", required=True, choices=networks.names())
    parser.add_argument("--trials", type=int, default=20, help="in all, those of an earlier, killed search included")
    parser.add_argument("--out", type=Path, required=True, help="the recipe to write")
    parser.add_argument("--space", type=Path, default=SPACE, help="TOML of what to try (default: model/search.toml)")
    parser.add_argument(
        "--recipe", metavar="NAME_OR_PATH", help="where to start (default: what model.train would take)"
    )
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    if arguments.trials < 1:
        parser.error(f"--trials {arguments.trials}, at least 1")
    if arguments.out.is_dir():
        parser.error(f"--out {arguments.out} is a folder, the recipe's file is needed")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        data = Prepared(arguments.data)
        choice = choose(arguments.network, data, arguments.recipe)
        print("\n".join(choice.lines()))
        start = choice.recipe
        space = load_space(arguments.space, arguments.network)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        storage = arguments.out.with_name(arguments.out.name + ".db").resolve()
        study = search(data, arguments.network, start, space, arguments.trials, arguments.seed, storage)
        if not any(trial.value is not None for trial in study.trials):
            raise OptionError("no trial came to an end")
    except (OSError, ValueError) as error:
        print(f"search: {command.words(error)}", file=sys.stderr)
        return 1
    best = study.best_trial
    chosen: dict[str, dict[str, Any]] = {room: {} for room in space}
    for name, value in best.params.items():
        room, setting = name.split(".", 1)
        chosen[room][setting] = value
    recipe = asdict(with_settings(start, chosen))
    changed = {key: value for key, value in recipe["training"].items() if value != asdict(Training())[key]}
    content = tomli_w.dumps({k: v for k, v in (recipe | {"training": changed}).items() if v})
    whole = sum(trial.value is not None for trial in study.trials)
    write_text(
        arguments.out,
        f"# {arguments.network} on {data.meta['dataset']}: {best.value:.4f} on validation, the best of {whole} trials "
        f"of\n# model.search (and {len(study.trials) - whole} ended early), seed {arguments.seed}.\n\n{content}",
    )
    print(content)
    print(
        json.dumps({"recipe": str(arguments.out), "validation": best.value, "trials": len(study.trials), **best.params})
    )
    return 0


if __name__ == "__main__":
    command.run(main, "search", "the trials that are done are kept beside --out, as .db: the same command goes on")
