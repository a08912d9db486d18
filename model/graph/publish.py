"""A finished run becomes a bundle: exported, checked against the network, measured on test, which is opened here."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch

from model.bundle.layout import WEIGHTS
from model.bundle.reading import Bundle
from model.bundle.writing import write_golden_catalog, writing
from model.evaluation.measure import measure, score_rows
from model.evaluation.metrics import calibration_bins
from model.files import write_json
from model.graph import golden
from model.graph.write import check_parity, example_batch, write_graph
from model.training.run import Run


def publish(run: Run, out: Path, boosting: bool = True) -> tuple[Path, dict[str, Any]]:
    """Exports the run's best weights and opens test once: (bundle, test figures). Raises ExportError.

    Without `boosting` nothing is fitted to stand beside the figures.
    """
    data, name = run.data, f"{run.name}_{run.data.meta['dataset']}"
    facts = {
        "network": run.name,
        "objective": run.objective,
        "dataset": data.meta["dataset"],
        "trained_on": run.trained_on,
        "selected_on": run.how.select,
    }
    with writing(out, name, facts) as folder:
        write_graph(run.network, example_batch(data), folder / "model.onnx", run.objective)
        torch.save(run.network.state_dict(), folder / WEIGHTS)
        (folder / "features.toml").write_text(tomli_w.dumps(run.schema.as_dict()))
        shutil.copytree(data.folder / "vocab", folder / "vocab")
        shutil.copytree(data.folder / "catalog", folder / "catalog")
        bundle = Bundle.unfinished(folder)
        parity = check_parity(run.network, bundle, run.objective)
        write_json(folder / "golden.json", golden.record(bundle, data))
        write_golden_catalog(bundle)
        figures: dict[str, Any] = {}
        for split in ("validation", "test"):
            rows = data.of_split(split)
            if split in run.trained_on or not len(rows):
                continue
            score = score_rows(bundle, data, rows)
            figures[split] = measure(data, rows, score, run.trained_on, run.objective, boosting)
            if run.objective == "click":
                figures[split]["calibration_bins"] = calibration_bins(data.label[rows], score)
        report = {
            **figures,
            "data": data.meta,
            "data_at": os.path.relpath(data.folder, folder),  # the finished bundle's folder stands beside this one
            "network": {"name": run.name, "parameters": sum(p.numel() for p in run.network.parameters())},
            "recipe": asdict(run.recipe),
            "seed": run.seed,
            "trained_on": run.trained_on,
            "selected_on": run.how.select,
            "warm": run.warm.version if run.warm else None,
            "curve": run.progress["curve"],  # looks at validation by weights that had not seen it
            "rows_per_s": rows_per_s(run),
            "max_abs_diff_torch": parity,
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
        }
        write_json(folder / "report.json", report)
    return (out / name / "current").resolve(), figures["test"]


def rows_per_s(run: Run) -> float:
    return float(round(run.progress["rows"] / max(run.progress["seconds"], 1e-9)))
