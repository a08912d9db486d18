"""One run of `python -m model.reproduce`: done once, taken up where it was killed, never done again.

runs/<variant>/<seed>/  result.json      figures, curve, attention, and the identity: what they were made by
                        scores.npy       the exported model's scores of the test impressions, in their order
                        bundles/         the exported model
                        checkpoint.pt    while it is under way
"""

import json
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from tqdm import tqdm

from model.bundle.reading import Bundle
from model.cores import cores
from model.evaluation.measure import score_rows
from model.files import write_json
from model.prepared.loader import Prepared
from model.reproduction import probes
from model.reproduction.gather import Finished
from model.reproduction.variants import Variant
from model.training.choosing.choice import Choice
from model.training.recipe import Recipe, RecipeError, completed

if TYPE_CHECKING:
    from model.training.run import Run


RUNS, RESULT, SCORES, CHECKPOINT = "runs", "result.json", "scores.npy", "checkpoint.pt"


@dataclass(frozen=True)
class Task:
    """One run that a report needs."""

    variant: Variant
    seed: int
    choice: Choice  # the recipe that its network has on the data; the variant's options go on top
    folder: Path
    data: str  # the data set's fingerprint

    @property
    def recipe(self) -> Recipe:
        return self.variant.recipe(self.choice.recipe)

    @property
    def name(self) -> str:
        return f"{self.variant.label} seed {self.seed}"

    @property
    def identity(self) -> dict[str, Any]:
        """What a result must agree on to be this task's, as JSON gives it back.

        Versions of libraries are not part of it: the result notes them, and the report says where they differ.
        """
        facts = {"network": self.variant.network, "seed": self.seed, "recipe": asdict(self.recipe), "data": self.data}
        return dict(json.loads(json.dumps(facts)))

    def done(self) -> Finished | None:
        """The run, where it is done and was made by the same recipe on the same data. A failed one is not done."""
        run = read(self.folder, self.variant)
        return run if run and run.scores is not None and run.result["identity"] == self.identity else None


def read(folder: Path, variant: Variant) -> Finished | None:
    """The run in a folder, finished or failed, whatever it was made by; None where there is none."""
    if not (folder / RESULT).exists():
        return None
    result = json.loads((folder / RESULT).read_text())
    result["identity"] = completed(result["identity"])
    scores = None if result["failed"] else np.load(folder / SCORES)
    return Finished(variant, result["identity"]["seed"], result, scores)


def train(task: Task, data: Prepared) -> Finished:
    """Does the run, or goes on with it. What came of it is written down, a failure too."""
    from model.graph.publish import publish  # torch takes seconds to import: not for --help
    from model.training.run import Run

    result: dict[str, Any] = {"label": task.variant.label, "identity": task.identity, "failed": None}
    result |= {"recipe_from": task.choice.recipe_from, "recipe_reasons": list(task.choice.reasons)}
    scores = None
    _forget_other(task)
    try:
        run = Run(data, task.variant.network, task.recipe, task.seed, task.folder / CHECKPOINT)
        _resume(run, task)
        run.fit()
        rows = data.of_split("test")
        shutil.rmtree(task.folder / "bundles", ignore_errors=True)  # of a run that was killed while it was exported
        # Below the floor too: the page says so. Nobody asks these bundles to explain.
        outcome = publish(run, task.folder / "bundles", choice=task.choice, explain=False)
        bundle = outcome.bundle
        scores = score_rows(Bundle.open(bundle), data, rows)
        np.save(task.folder / SCORES, scores)
        report = json.loads((bundle / "report.json").read_text())
        result |= {
            "bundle": str(bundle.relative_to(task.folder.resolve())),
            "figures": outcome.figures,
            "warnings": outcome.exam.warnings,
            "objective": run.objective,
            "trained_on": run.trained_on,
            "curve": _curve(run),
            "attention": probes.attention_by_recency(run.network.eval(), run.data, rows),
            "rows_per_s": report["rows_per_s"],
            "parameters": report["network"]["parameters"],
            "seconds": run.progress["seconds"],
        }
    except (ValueError, RuntimeError) as error:  # the other runs go on
        result["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        scores = None
    result |= {"versions": versions(), "machine": machine(), "finished": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
    task.folder.mkdir(parents=True, exist_ok=True)
    write_json(task.folder / RESULT, result)
    if scores is not None:
        (task.folder / CHECKPOINT).unlink(missing_ok=True)
    return Finished(task.variant, task.seed, result, scores)


def _forget_other(task: Task) -> None:
    """Clears the folder of a run that was made otherwise, and says what has changed since."""
    earlier = read(task.folder, task.variant)
    if earlier and earlier.result["identity"] != task.identity:
        changed = ", ".join(_changes(earlier.result["identity"], task.identity))
        say(f"{task.name}: was done before, and since then {changed}; it is trained anew")
        shutil.rmtree(task.folder)


def _changes(earlier: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(earlier, dict) and isinstance(now, dict):
        for key in sorted(earlier.keys() | now.keys()):
            yield from _changes(earlier.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif earlier != now:
        yield "the data has changed" if name == "data" else f"{name} has changed from {earlier} to {now}"


def _resume(run: "Run", task: Task) -> None:
    try:
        if run.resume():
            say(f"{task.name}: goes on from its checkpoint")
    except RecipeError:
        say(f"{task.name}: its checkpoint is of another recipe or other data; it is trained anew")


def _curve(run: "Run") -> list[dict[str, Any]]:
    """The looks at validation, with `epochs`: how many had been trained by then."""
    looks = run.progress["curve"]
    return [look | {"epochs": (number + 1) / run.how.evaluations} for number, look in enumerate(looks)]


def versions() -> dict[str, str]:
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


def machine() -> dict[str, Any]:
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": cores(),
        "training_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def say(text: str) -> None:
    """A line on stdout that no progress bar runs through."""
    tqdm.write(text, file=sys.stdout)
