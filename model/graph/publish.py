"""A finished run becomes a bundle: exported, checked against the network, measured on test, which is opened here.

Whether `current` moves to it is decided between the figures and the manifest: a model below the floor is written, and
served only where whoever trains it says so (model/evaluation/verdict.py).
"""

import os
import shlex
import shutil
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch

from model.bundle.layout import RECIPE, WEIGHTS
from model.bundle.reading import Bundle
from model.bundle.writing import Draft, write_golden_catalog, write_golden_counts, writing
from model.evaluation import verdict
from model.evaluation.measure import floor_scores, meaning, measure, score_rows
from model.evaluation.metrics import calibration_bins
from model.evaluation.opened import opened
from model.features.kinds import ITEM_ID, USER_ID
from model.files import beside, write_json
from model.graph import golden
from model.graph.attention import add_attention
from model.graph.write import ExportError, check_parity, example_batch, write_graph
from model.training import contract
from model.training.choosing.choice import Choice
from model.training.run import Run

MEASURED = ("validation", "test")


@dataclass(frozen=True)
class Exam:
    """The figures of a run's weights on splits that they have not seen, and what these say."""

    figures: dict[str, dict[str, Any]]  # by split
    split: str | None  # the one that the model is judged on
    above_floor: bool
    gain_over_floor: dict[str, float] | None  # of AUC on that split: mean, low, high
    warnings: list[str]
    trained_on: list[str]  # what these weights had seen
    test_opened: dict[str, int] | None = None  # how often, and by how many recipes, this time included

    @property
    def judged(self) -> dict[str, Any]:
        """The figures that the model is judged by; none where no split is left to judge it on."""
        return self.figures[self.split] if self.split else {}


@dataclass(frozen=True)
class Published:
    """A bundle on disk: whether `current` points to it, and what whoever trained it should know."""

    bundle: Path
    published: bool
    exam: Exam
    warnings: list[str]

    @property
    def figures(self) -> dict[str, Any]:
        return self.exam.judged


def examine(run: Run) -> Exam:
    """The figures of a run's weights, by an export that is thrown away. For a run that goes on to `fit_final`."""
    run.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with beside(run.checkpoint.with_suffix(".exam")) as folder:
        folder.mkdir()
        bundle, _ = _export(run, folder)
        return _exam(run, bundle)


def publish(
    run: Run,
    out: Path,
    name: str | None = None,
    gate: bool = False,
    choice: Choice | None = None,
    exam: Exam | None = None,
    boosting: bool = True,
    explain: bool = True,
) -> Published:
    """Exports the run's best weights and opens test once. Raises ExportError.

    `gate`: `current` does not move to a model below the floor. `choice` is where the recipe came from. `exam` are the
    figures of weights before `fit_final`, which has left no split to measure on. Without `boosting` no trees are fitted
    to stand beside the figures; without `explain` the bundle gets no graph of what the network attends to.
    """
    data, name = run.data, name or default_name(run.name, run.data.meta["dataset"])
    facts = {
        "network": run.name,
        "objective": run.objective,
        "scores": meaning(run.objective, data.meta.get("drawn_negatives", False)),
        "dataset": data.meta["dataset"],
        "trained_on": run.trained_on,
        "selected_on": run.how.select,
    }
    with writing(out, name, facts | ({"figures_of_weights_trained_on": exam.trained_on} if exam else {})) as draft:
        bundle, parity = _export(run, draft.folder)
        (draft.folder / RECIPE).write_text(_recipe_toml(run))
        write_json(draft.folder / "golden.json", golden.record(bundle, data))
        write_golden_catalog(bundle)
        write_golden_counts(bundle)
        own = exam or _exam(run, bundle, boosting)
        warnings = [*own.warnings, *(_unexplained(bundle, run) if explain else ())]
        if not own.above_floor:
            draft.publish = not gate
            warnings.insert(0, _below(own, run, draft, draft.publish))
        if draft.publish:
            warnings += other_log(draft.home, [feature.name for feature in run.schema.features])
        report = {
            **own.figures,
            "data": data.meta,
            "data_at": os.path.relpath(data.folder, draft.folder),  # the finished bundle's folder stands beside it
            "network": {"name": run.name, "parameters": sum(p.numel() for p in run.network.parameters())},
            "recipe": asdict(run.recipe),
            "recipe_from": choice.recipe_from if choice else None,
            "recipe_reasons": list(choice.reasons) if choice else [],
            "seed": run.seed,
            "trained_on": run.trained_on,
            "figures_of_weights_trained_on": own.trained_on,
            "selected_on": run.how.select,
            "test_opened": own.test_opened,
            "gain_over_floor": own.gain_over_floor,
            "published": draft.publish,
            "warnings": warnings,
            "warm": run.warm.version if run.warm else None,
            "curve": run.progress["curve"],  # looks at validation by weights that had not seen it
            "rows_per_s": rows_per_s(run),
            "max_abs_diff_torch": parity,
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
        }
        write_json(draft.folder / "report.json", report)
    return Published(draft.finished, draft.publish, own, warnings)


def _unexplained(bundle: Bundle, run: Run) -> list[str]:
    """Adds the graph of the network's attention; a warning where it cannot be had, which is no reason not to serve."""
    try:
        add_attention(bundle, run.network)
    except ExportError as error:
        return [f"POST /rank will explain without attention: {error}"]
    return []


def other_log(home: Path, features: Sequence[str]) -> list[str]:
    """A warning where `current` is of another log: less than half of all its columns and ours are in both.

    Logs of one's own have one default name. What cannot be read is no reason to warn.
    """
    try:
        entries = tomllib.loads((home / "current" / "features.toml").read_text(encoding="utf-8"))["feature"]
        before = {entry["name"] for entry in entries} - {USER_ID, ITEM_ID}
    except (OSError, ValueError, KeyError, TypeError):
        return []
    after = set(features) - {USER_ID, ITEM_ID}
    if 2 * len(before & after) >= len(before | after):
        return []
    return [
        f"{home / 'current'} was a model of other columns ({', '.join(sorted(before - after)[:5])}) and is this one "
        "now: of two logs, --name gives each bundle a name of its own"
    ]


def default_name(network: str, dataset: str) -> str:
    return f"{network}_{dataset}"


def rows_per_s(run: Run) -> float:
    return float(round(run.progress["rows"] / max(run.progress["seconds"], 1e-9)))


def _export(run: Run, folder: Path) -> tuple[Bundle, float]:
    """What scores, and how far it is from the network. Raises ExportError and ContractError."""
    data = run.data
    contract.check(run.network, data)
    write_graph(run.network, example_batch(data), folder / "model.onnx", run.objective)
    torch.save(run.network.state_dict(), folder / WEIGHTS)
    (folder / "features.toml").write_text(tomli_w.dumps(run.schema.as_dict()))
    shutil.copytree(data.folder / "vocab", folder / "vocab")
    shutil.copytree(data.folder / "catalog", folder / "catalog")
    bundle = Bundle.unfinished(folder)
    return bundle, check_parity(run.network, bundle, run.objective)


def _exam(run: Run, bundle: Bundle, boosting: bool = True) -> Exam:
    data, figures, gain = run.data, {}, None
    scores, looks = {}, None
    for split in MEASURED:
        rows = data.of_split(split)
        if split in run.trained_on or not len(rows):
            continue
        if split == "test":  # counted before it is looked at: a run that is killed meanwhile has looked
            looks = opened(data, run.name, asdict(run.recipe), run.seed)
        scores[split] = score_rows(bundle, data, rows)
        figures[split] = measure(data, rows, scores[split], run.trained_on, run.objective, boosting)
        if run.objective == "click":
            figures[split]["calibration_bins"] = calibration_bins(data.label[rows], scores[split])
    split = verdict.judged_on(figures)
    if split and run.objective != "watch_time":
        rows = data.of_split(split)
        floor, aucs = floor_scores(data, rows, run.trained_on), (figures[split]["auc"], figures[split]["floor_auc"])
        gain = asdict(verdict.gain(data.label[rows], scores[split], floor, data.user[rows], aucs))
    judged = figures[split] if split else None
    sizes = {of: (len(data.of_split(of)), int(data.label[data.of_split(of)].sum())) for of in MEASURED}
    warnings = [
        *verdict.of_figures(split, judged, gain, run.objective),
        *verdict.of_selection(run.how.select),
        *verdict.of_course(run.progress["curve"], run.how.epochs),
        *verdict.of_histories(run.empty_histories),
        *verdict.of_sizes(sizes),
    ]
    return Exam(figures, split, verdict.above_floor(judged, run.objective), gain, warnings, run.trained_on, looks)


def _below(exam: Exam, run: Run, draft: Draft, published: bool) -> str:
    """Why the gate is shut, and what opens it."""
    if exam.split is None:
        why = "no impression is left that the model has not seen, or all have one label: nothing says what it is worth"
    else:
        own, floor = verdict.gauge(run.objective)
        least = verdict.least(exam.judged, run.objective)
        what = "the floor, which adds up click rates and learns nothing"
        if least > exam.judged[floor]:
            what = f"a random order (the floor, {exam.judged[floor]:.4f}, is below that itself)"
        why = f"{own} {exam.judged[own]:.4f} on {exam.split} is below the {least:.4f} of {what}"
    if published:
        return f"{why}; it is `current` all the same"
    link = shlex.join(["ln", "-sfn", draft.version, str(draft.home / "current")])
    return (
        f"{why}; written, not made `current`. Other settings: python -m model.search --data {run.data.folder} "
        f"--network {run.name} --out recipe.toml. To serve it all the same: {link} (or train with --publish-anyway)"
    )


def _recipe_toml(run: Run) -> str:
    head = "# The recipe of this bundle, whole. To change it: copy it, edit the copy, model.train --recipe COPY.\n\n"
    return head + tomli_w.dumps({name: value for name, value in asdict(run.recipe).items() if value})
