"""Train a network on a prepared data set, evaluate it, export it.

    python -m model.train --data data/kuairand --network bst --out bundles

Nothing is selected on test: early stopping and the best checkpoint look at validation, and test is opened once, at
the end, for the exported model. A killed run goes on with --resume and ends with the same bits (one machine, one
thread count): batches follow from (seed, epoch), and the checkpoint carries network, optimiser and dropout's random
state.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from torch import nn
from tqdm import tqdm

from model import golden, networks
from model.bundle import Bundle, BundleError, writing
from model.evaluate import auc, calibration_bins, logloss, measure, score_rows, table
from model.export import ExportError, check_parity, example_batch, write_graph, write_json
from model.loader import Prepared, batches, tensors
from model.networks.blocks import start
from model.recipe import Recipe, RecipeError, Training, choose_recipe, load_recipe, with_widths


class Optimiser:
    """The optimisers of one network: tables have sparse gradients, everything else dense ones."""

    def __init__(self, network: nn.Module, how: Training):
        tables = [m.weight for m in network.modules() if isinstance(m, nn.Embedding)]
        of_table = {id(weight) for weight in tables}
        dense = [p for p in network.parameters() if id(p) not in of_table]
        self._rate = how.learning_rate
        self.parts: list[torch.optim.Optimizer]
        if how.optimiser == "adagrad":
            self.parts = [
                torch.optim.Adagrad([*tables, *dense], how.learning_rate, initial_accumulator_value=how.accumulator)
            ]
        else:
            self.parts = [
                torch.optim.SparseAdam(tables, how.learning_rate),
                torch.optim.AdamW(dense, how.learning_rate, weight_decay=how.weight_decay),
            ]

    def pace(self, share: float) -> None:
        """Sets the learning rates to this share of the recipe's."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self._rate * share

    def forget(self, table: nn.Parameter) -> None:
        """Drops what was gathered about a table that starts anew."""
        for part in self.parts:
            if isinstance(part, torch.optim.Adagrad) and table in part.state:
                part.state[table]["sum"].fill_(part.defaults["initial_accumulator_value"])
            else:
                part.state.pop(table, None)

    def step(self) -> None:
        for part in self.parts:
            part.step()
            part.zero_grad()

    def state(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load(self, states: Sequence[dict[str, Any]]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


class Run:
    """One training run: its state is the network, the optimiser and `progress`, all of it in the checkpoint."""

    def __init__(self, data: Prepared, name: str, recipe: Recipe, seed: int, checkpoint: Path):
        torch.sparse.check_sparse_tensor_invariants.disable()  # said aloud, else torch warns once a run
        self.data, self.name, self.recipe, self.seed, self.checkpoint = data, name, recipe, seed, checkpoint
        self.how = recipe.training
        self.schema = with_widths(data.schema, recipe.features)
        self._build()
        self.progress: dict[str, Any] = {
            "phase": "select",
            "epoch": 0,
            "batch": 0,
            "best": -1.0,
            "waited": 0,
            "curve": [],
            "seconds": 0.0,
            "rows": 0,
        }
        self.best: dict[str, torch.Tensor] = {}

    def _build(self) -> None:
        torch.manual_seed(self.seed)
        self.network = networks.build(self.name, self.schema, self.data.rows, self.recipe.network)
        self.optimiser = Optimiser(self.network, self.how)

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on before it may be resumed."""
        return {"network": self.name, "seed": self.seed, "recipe": asdict(self.recipe), "data": self.data.fingerprint}

    def fit(self) -> None:
        """Trains to the end or to where validation stops getting better; `best` holds the weights to export."""
        if self.progress["phase"] == "select":
            self._epochs(self.data.of_split("train"), self.how.epochs, self.how.evaluations)
            if self.how.refit:
                self._begin_refit()
        if self.progress["phase"] == "refit":
            self._epochs(self.refit_rows(), self.progress["refit_epochs"], looks=0)
            self.best = self.network.state_dict()
        self.network.load_state_dict(self.best)

    @property
    def trained_on(self) -> list[str]:
        """Splits that the exported weights have seen."""
        return ["train", "validation"] if self.how.refit else ["train"]

    def refit_rows(self) -> np.ndarray[Any, Any]:
        return np.concatenate([self.data.of_split(split) for split in self.trained_on])

    def _begin_refit(self) -> None:
        """Starts over, for as many epochs as were best on validation, now with the validation day among the rows."""
        best = max(self.progress["curve"], key=lambda look: look["auc"])
        self._build()
        self.progress |= {"phase": "refit", "refit_epochs": best["epoch"], "epoch": 0, "batch": 0}

    def _epochs(self, train: np.ndarray[Any, Any], epochs: int, looks: int) -> None:
        """Epochs over the rows `train`, with so many looks at validation in each; 0: none, and no early stopping."""
        steps = -(-len(train) // self.how.batch_size)
        look_at = {round(steps * (look + 1) / looks) for look in range(looks)}
        begun = saved = time.monotonic()
        before = self.progress["seconds"]
        while self.progress["epoch"] < epochs and not (looks and self.progress["waited"] >= self.how.patience):
            epoch, at = self.progress["epoch"], self.progress["batch"]
            if epoch and not at:
                self._start_tables_anew()
            order = np.random.default_rng([self.seed, epoch]).permutation(train)
            done = at * self.how.batch_size
            bar = tqdm(total=len(train), initial=done, unit=" rows", unit_scale=True, delay=1, mininterval=0.5)
            bar.set_description(f"{self.progress['phase']}: epoch {epoch + 1}/{epochs}")
            with bar:
                for rows, inputs in batches(self.data, order, self.how.batch_size, at):
                    self.optimiser.pace(1 - (1 - self.how.decay) * self.progress["batch"] / steps)
                    loss = self._step(rows, inputs)
                    self.progress["batch"] += 1
                    self.progress["rows"] += len(rows)
                    self.progress["seconds"] = before + time.monotonic() - begun
                    bar.update(len(rows))
                    if self.progress["batch"] % 50 == 0:
                        shown = {"loss": f"{float(loss):.4f}", "validation": f"{self.progress['best']:.4f}"}
                        bar.set_postfix(shown, refresh=False)
                    if self.progress["batch"] in look_at:
                        self._look(float(loss))
                        if self.progress["waited"] >= self.how.patience:
                            break
                    if time.monotonic() - saved > self.how.checkpoint_s:
                        self.save()
                        saved = time.monotonic()
            self.progress |= {"epoch": epoch + 1, "batch": 0}

    def _start_tables_anew(self) -> None:
        """Ids learnt by heart in one epoch mislead the next; what the attention has learnt meanwhile stays."""
        for module in self.network.modules():
            if isinstance(module, nn.Embedding) and module.num_embeddings > self.how.fresh_tables > 0:
                start(module)
                self.optimiser.forget(module.weight)

    def _step(self, rows: np.ndarray[Any, Any], inputs: dict[str, np.ndarray[Any, Any]]) -> torch.Tensor:
        self.network.train()
        logit = self.network(tensors(inputs))[:, 0]
        label = torch.from_numpy(self.data.label[rows].astype(np.float32))
        loss = nn.functional.binary_cross_entropy_with_logits(logit, label)  # (9)
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def _look(self, train_loss: float) -> None:
        """One look at validation: keeps the weights if they are the best so far."""
        rows = self.data.of_split("validation")
        score = predict(self.network, self.data, rows)
        found = auc(self.data.label[rows], score)
        figures = {"auc": found, "logloss": logloss(self.data.label[rows], score), "train_loss": train_loss}
        self.progress["curve"].append({"epoch": self.progress["epoch"] + 1, "batch": self.progress["batch"], **figures})
        if found is None:
            raise RecipeError("validation holds one class only, so no AUC can pick the best checkpoint")
        if found > self.progress["best"]:
            self.progress |= {"best": found, "waited": 0}
            self.best = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        else:
            self.progress["waited"] += 1

    def save(self) -> None:
        """Writes the checkpoint beside and renames it into place."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "identity": self.identity,
            "progress": self.progress,
            "network": self.network.state_dict(),
            "best": self.best,
            "optimiser": self.optimiser.state(),
            "random": torch.get_rng_state(),
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(content, partial)
        os.replace(partial, self.checkpoint)

    def resume(self) -> bool:
        """Takes up the checkpoint where there is one. Raises RecipeError when it belongs to another run."""
        if not self.checkpoint.exists():
            return False
        content = torch.load(self.checkpoint, weights_only=True)
        if content["identity"] != self.identity:  # also where the data was prepared anew
            raise RecipeError(
                f"{self.checkpoint} belongs to a run with another recipe, seed or data; train without --resume"
            )
        self.progress, self.best = content["progress"], content["best"]
        self.network.load_state_dict(content["network"])
        self.optimiser.load(content["optimiser"])
        torch.set_rng_state(content["random"])
        return True


def predict(network: nn.Module, data: Prepared, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The network's scores of impressions (n,), in torch: for looks at validation while it trains."""
    network.eval()
    with torch.no_grad():
        scores = [torch.sigmoid(network(tensors(inputs)))[:, 0].numpy() for _, inputs in batches(data, rows, 4096)]
    return np.concatenate(scores)


def publish(run: Run, out: Path) -> tuple[Path, dict[str, Any]]:
    """Exports the run's best weights and opens test once: (bundle, test figures). Raises ExportError."""
    data, name = run.data, f"{run.name}_{run.data.meta['dataset']}"
    facts = {"network": run.name, "objective": "click", "dataset": data.meta["dataset"], "trained_on": run.trained_on}
    with writing(out, name, facts) as folder:
        write_graph(run.network, example_batch(data), folder / "model.onnx")
        (folder / "features.toml").write_text(tomli_w.dumps(run.schema.as_dict()))
        shutil.copytree(data.folder / "vocab", folder / "vocab")
        shutil.copytree(data.folder / "catalog", folder / "catalog")
        made = Bundle.unfinished(folder)
        parity = check_parity(run.network, made)
        write_json(folder / "golden.json", golden.record(made, data))
        figures: dict[str, Any] = {}
        unseen = [split for split in ("validation", "test") if split not in run.trained_on]
        for split in unseen:
            rows = data.of_split(split)
            score = score_rows(made, data, rows)
            figures[split] = measure(data, rows, score, run.trained_on) | {
                "calibration_bins": calibration_bins(data.label[rows], score)
            }
        report = {
            **figures,
            "data": data.meta,
            "network": {"name": run.name, "parameters": sum(p.numel() for p in run.network.parameters())},
            "recipe": asdict(run.recipe),
            "seed": run.seed,
            "trained_on": run.trained_on,
            "curve": run.progress["curve"],  # looks at validation by weights that had not seen it
            "rows_per_s": _rows_per_s(run),
            "max_abs_diff_torch": parity,
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
        }
        write_json(folder / "report.json", report)
    return (out / name / "current").resolve(), figures["test"]


def _rows_per_s(run: Run) -> float:
    return round(run.progress["rows"] / max(run.progress["seconds"], 1e-9))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.train", description="Train, evaluate and export a network.")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--network", required=True, choices=networks.names())
    parser.add_argument("--out", type=Path, required=True, help="folder of bundles")
    parser.add_argument("--recipe", type=Path, help="TOML with what differs from the defaults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint of a killed run")
    given = parser.parse_args(arguments)
    try:
        data = Prepared(given.data)
        path = choose_recipe(given.network, data.meta["dataset"], given.recipe)
        print(f"recipe: {path or 'none, the defaults'}")
        checkpoint = given.out / f"{given.network}_{data.meta['dataset']}" / f".training-{given.seed}.pt"
        run = Run(data, given.network, load_recipe(path) if path else Recipe(), given.seed, checkpoint)
        if given.resume:
            print("resumed" if run.resume() else f"nothing to resume at {checkpoint}, starting anew")
        run.fit()
        bundle, figures = publish(run, given.out)
    except (OSError, ValueError, BundleError, ExportError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    checkpoint.unlink(missing_ok=True)
    print(table(figures))
    print(f"bundle: {bundle}")
    print(json.dumps({"bundle": str(bundle), **figures, "rows_per_s": _rows_per_s(run)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
