"""Trials of a search: runs that optuna chooses the settings of, and ends early where they fall behind.

What was drawn and trained to the end before is not trained again: its AUC is known.
"""

import hashlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from model.options import OptionError
from model.prepared.loader import Prepared
from model.training.choosing.space import Space
from model.training.run import Run, TrainingError

AGAIN = "again"  # of a trial that drew what an earlier one had: that one's number


class Trial(Run):
    """A run that tells optuna of every look at validation, and ends where optuna says."""

    trial: optuna.Trial

    def look(self) -> None:
        super().look()
        self.trial.report(self.progress["curve"][-1]["picked_by"], len(self.progress["curve"]))
        early = len(self.progress["curve"]) <= self.how.patience and self.at_chance()
        if not early and self.trial.should_prune():
            raise optuna.TrialPruned


def search(data: Prepared, space: Space, trials: int, seed: int, storage: Path) -> Any:
    """The finished study. A trial that cannot be trained counts as pruned, its reason in `refused`.

    Raises OptionError where the file `storage` cannot be read or written.
    """
    try:
        return _searched(data, space, trials, seed, storage)
    except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        cause = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
        raise OptionError(
            f"{storage}, which keeps the trials, cannot be read or written: {str(cause).splitlines()[0]}"
        ) from None


def _searched(data: Prepared, space: Space, trials: int, seed: int, storage: Path) -> Any:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    begin = json.dumps([data.fingerprint, space.rooms, asdict(space.start), seed], sort_keys=True)
    study = optuna.create_study(
        study_name=f"{space.network} {hashlib.sha256(begin.encode()).hexdigest()[:16]}",
        storage=f"sqlite:///{storage}",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    )
    if not study.trials:
        study.enqueue_trial(dict(space.starting()))

    def objective(trial: optuna.Trial) -> float:
        settings = space.drawn(trial)
        for earlier in whole(study):
            if earlier.params == trial.params:  # of the same seed: trained again it would end with the same bits
                trial.set_user_attr(AGAIN, earlier.number)
                return float(earlier.value)
        try:
            recipe = space.recipe(settings)
            recipe = replace(recipe, training=replace(recipe.training, refit=False, select="validation"))
            with TemporaryDirectory() as folder:
                run = Trial(data, space.network, recipe, seed, Path(folder) / "checkpoint.pt")
                run.trial = trial
                run.fit()
        except (OptionError, TrainingError) as error:
            trial.set_user_attr("refused", str(error))
            raise optuna.TrialPruned(str(error)) from None
        trial.set_user_attr("looks", len(run.progress["curve"]))
        return float(run.progress["best"])

    done = sum(trial.state.is_finished() for trial in study.trials)
    with tqdm(total=trials, initial=min(done, trials), unit="trial") as bar:

        def show(study: optuna.Study, trial: Any) -> None:
            bar.update()
            bar.set_postfix_str(f"best {study.best_value:.4f}" if whole(study) else "")
            if "refused" in trial.user_attrs:
                bar.write(f"trial {trial.number} ended: {trial.user_attrs['refused']}", file=sys.stderr)

        study.optimize(objective, n_trials=max(0, trials - done), callbacks=[show])
    return study


def whole(study: optuna.Study) -> list[Any]:
    """Trials that were trained to their end. One that was ended early has a value too: that of its last look."""
    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
