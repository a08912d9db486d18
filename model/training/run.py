"""One training run: a network, its optimiser, its looks at validation, its checkpoint.

Nothing is selected on test: early stopping and the best checkpoint look at validation. A killed run goes on from its
checkpoint and ends with the same bits (one machine, one thread count): batches follow from (seed, epoch), and the
checkpoint carries network, optimiser and dropout's random state. Where there is a GPU it is used: matrix products in
bf16, transfers from pinned memory.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from model import networks
from model.bundle.layout import WEIGHTS
from model.bundle.reading import Bundle
from model.evaluation.measure import at_once, watch_correlation, watch_seconds
from model.evaluation.metrics import auc, logloss
from model.files import replacing
from model.networks.blocks import embedding, start, tables_made_by
from model.prepared.loader import Prepared, batches
from model.prepared.splits import SPLITS
from model.training import contract, objective
from model.training.batches import shuffled_batches, tensors
from model.training.histories import empty_share
from model.training.memory import keep_freed
from model.training.optimisers.optimiser import Optimiser
from model.training.optimisers.regularisation import lookups, occurrences, squares_of_pairs
from model.training.pairs import Pairs
from model.training.parallel import World
from model.training.patience import at_chance
from model.training.recipe import Recipe, RecipeError, adapted, completed
from model.training.warm import check_rows_stayed, take_over

Rows = np.ndarray[Any, Any]  # impressions
# The splits that the weights of a phase have seen. Each after the first starts anew, and goes on to the best look.
TRAINED_ON = {"select": ["train"], "refit": ["train", "validation"], "final": list(SPLITS)}


class TrainingError(ValueError):
    """Training that cannot go on; says at which batch, and what is left of it."""


class Run:
    """One training run: its state is the network, the optimiser and `progress`, all of it in the checkpoint.

    Whoever wants a run to go otherwise overrides one of two methods: `step`, what is done with a batch, and `look`,
    what is done between batches. `train` alone is the loop, for whoever measures it.

    `warm` is a bundle whose weights it starts from; `board` takes TensorBoard's add_scalar. Raises ValueError for a
    recipe or a data set that the network cannot use.
    """

    def __init__(
        self,
        data: Prepared,
        name: str,
        recipe: Recipe,
        seed: int,
        checkpoint: Path,
        warm: Bundle | None = None,
        board: Any = None,
        device: str | None = None,
    ):
        torch.sparse.check_sparse_tensor_invariants.disable()  # set explicitly, else torch warns once a run
        keep_freed()
        self.name, self.recipe, self.seed, self.checkpoint = name, recipe, seed, checkpoint
        self.how, self.warm, self.board, self.world = recipe.training, warm, board, World()
        if device == "cuda" and not torch.cuda.is_available():
            raise RecipeError("device cuda given, and there is no GPU that torch can use; allowed: cpu")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.schema = adapted(data.schema, recipe)
        self.data = data.seen_by(self.schema)
        if warm:
            check_rows_stayed(warm, data)
        self._build()
        self.objective: str = self.network.objective or self.how.objective
        if self.objective == "pairs" and self.how.batch_l2:
            raise RecipeError(f"batch_l2 {self.how.batch_l2} for {name}, which learns pairs; allowed: l2, BPR's λ")
        self._check_labels()
        contract.check(self.network, self.data)
        self.empty_histories = self._check_histories()  # share of the training impressions; None: it reads none
        self.fitted = False  # trained to the end of what was asked
        self.interrupted = False  # set from outside: it ends after the batch under way, with its checkpoint written
        self.progress: dict[str, Any] = {
            "phase": "select",
            "epoch": 0,
            "batch": 0,
            "best": -1.0,
            "waited": 0,
            "curve": [],
            "seconds": 0.0,
            "losses": [0.0, 0],  # their sum and number since the last look
            "rows": 0,
        }
        self.best: dict[str, torch.Tensor] = {}

    def _build(self) -> None:
        torch.manual_seed(self.seed)
        with tables_made_by(self.make_table):
            self.network = networks.build(self.name, self.schema, self.data.rows, self.recipe.network)
        if self.warm:
            take_over(self.network, torch.load(self.warm.folder / WEIGHTS, weights_only=True))
        self.network.to(self.device)
        how = replace(self.how, lazy=True) if self.warm else self.how  # rows that no batch touches stay
        if self.network.objective == "pairs":
            how = replace(how, l2=0.0)  # BPR's λ is a part of each pair's loss
        self.optimiser = Optimiser(self.network, how)

    def make_table(self, rows: int, width: int, silent: Sequence[int]) -> nn.Module:
        """An embedding table of the network, as blocks.table asks for it."""
        return embedding(rows, width, silent, self.how.table_deviation)

    def _check_labels(self) -> None:
        for split in ("train", self.how.select) if self.how.evaluations else ("train",):
            labels = self.data.label[self.data.of_split(split)]
            if labels.sum() in (0, len(labels)):
                raise RecipeError(
                    f"{self.data.folder}: {labels.sum()} clicks among {len(labels)} impressions of {split}; "
                    "both classes are needed"
                )
        if self.objective == "watch_time" and "watch_ms" not in self.data.arrays:
            raise RecipeError(f"{self.data.folder}: objective watch_time needs impressions with watch_ms")

    def _check_histories(self) -> float | None:
        rows = self.data.of_split("train")
        share = empty_share(self.data, rows, self.network)
        if share == 1.0:
            raise RecipeError(
                f"{self.data.folder}: {self.name} reads histories, and all those of the {len(rows)} training "
                "impressions are empty; do actions, object_type and length in features.toml fit the behaviours, and "
                "are these older than the impressions? A network that reads none: --network wdl"
            )
        return share

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on before it may be resumed."""
        return {
            "network": self.name,
            "seed": self.seed,
            "recipe": asdict(self.recipe),
            "data": self.data.fingerprint,
            "warm": self.warm.version if self.warm else None,
        }

    def fit(self) -> None:
        """Trains to the end or to where validation stops getting better; `best` holds the weights to export.

        Raises TrainingError where the loss is no number any more.
        """
        if self.progress["phase"] == "select":
            self.train(self.data.of_split("train"), self.how.epochs, self.how.evaluations)
            if self.how.refit:
                self._begin_anew("refit")
            elif not self.how.evaluations:
                self.best = self._averaged()
        if self.progress["phase"] == "refit":
            # After refit no split is unseen; `select = test` still looks, to show how misleading that is.
            looks = self.how.evaluations if self.how.select == "test" else 0
            self.train(self.refit_rows(), self.progress["refit_epochs"], looks)
            self.best = self.best if looks else self._averaged()
        self.network.load_state_dict(self.best)
        self.network.to("cpu")
        self.fitted = True

    def _averaged(self) -> dict[str, torch.Tensor]:
        """The weights to export where nothing was looked at."""
        with self.optimiser.averaged():
            return self.network.state_dict()

    def lines(self) -> list[str]:
        """For people: what each process held and sent, where that is not all the same (model/training/sharded)."""
        return []

    def fit_final(self) -> None:
        """After `fit`: trains anew on all days. Nothing is left to measure these weights on; `fit` gave the figures."""
        self.fitted = False
        if self.progress["phase"] != "final":
            self._begin_anew("final")
        self.train(self.refit_rows(), self.progress["refit_epochs"], 0)
        self.best = self._averaged()
        self.network.load_state_dict(self.best)
        self.network.to("cpu")
        self.fitted = True

    @property
    def trained_on(self) -> list[str]:
        """Splits that the weights have seen."""
        return TRAINED_ON[self.progress["phase"]]

    def refit_rows(self) -> Rows:
        return np.concatenate([self.data.of_split(split) for split in self.trained_on])

    def _begin_anew(self, phase: str) -> None:
        """Starts over on more days, to go on for as much of as many epochs as was best on validation.

        A look after 3/8 of the second epoch's batches means 1.375 epochs of the larger log: every row is seen as often
        as it was, and the learning rate has fallen as far.
        """
        self.progress.setdefault("refit_epochs", self._best_epochs())  # of the first phase, whatever follows
        self._build()
        self.progress |= {"phase": phase, "epoch": 0, "batch": 0}
        self.progress |= {"best": -1.0, "waited": 0} if self.how.select == "test" else {}

    def _best_epochs(self) -> float:
        """How many epochs the best look came after; without looks all of them."""
        if not self.progress["curve"]:
            return self.how.epochs
        best = max(self.progress["curve"], key=lambda look: look["picked_by"])
        return float(best["epoch"] - 1 + best["batch"] / self.progress["steps"])

    def train(self, rows: Rows, epochs: float, looks: int) -> None:
        """Goes on until `epochs` epochs over the impressions `rows` are done, with so many looks at validation in each.

        Of a last epoch that is not whole it does that share of the batches, the last look after them. No looks: no
        early stopping.
        """
        pairs = Pairs(self.data, rows) if self.objective == "pairs" else None
        rows = pairs.positive if pairs else rows
        size = self.how.batch_size
        self.progress["steps"] = steps = -(-len(rows) // size)  # of a whole epoch
        self.optimiser.begin(steps)
        if self.how.batch_l2:
            self._count_occurrences(rows)
        begun = saved = time.monotonic()
        before = self.progress["seconds"]
        while self.progress["epoch"] < epochs and not (looks and self.progress["waited"] >= self.how.patience):
            epoch, at = self.progress["epoch"], self.progress["batch"]
            last = max(1, round(steps * min(1.0, epochs - epoch)))
            look_at = {min(last, round(steps * (look + 1) / looks)) for look in range(looks)}
            if epoch and not at and not self.warm:  # what a warm start brings along is to stay
                self.start_tables_anew()
            bar = tqdm(total=len(rows), initial=at * size, unit=" rows", unit_scale=True, delay=1, mininterval=0.5)
            bar.disable = bar.disable or self.world.rank > 0
            bar.set_description(f"{self.progress['phase']}: epoch {epoch + 1}/{epochs}", refresh=False)
            with bar:
                for batch in shuffled_batches(rows, size, self.seed, epoch, at):
                    self.optimiser.pace(1 - (1 - self.how.decay) * self.progress["batch"] / steps)
                    loss = self.step(batch, pairs.negative(batch, self.seed, epoch) if pairs else None)
                    self.progress["losses"] = [self.progress["losses"][0] + float(loss), self.progress["losses"][1] + 1]
                    self.progress["batch"] += 1
                    self.progress["rows"] += len(batch)
                    self.progress["seconds"] = before + time.monotonic() - begun
                    bar.update(len(batch))
                    if self.progress["batch"] % 50 == 0:
                        shown = {"loss": f"{float(loss):.4f}"}
                        if self.progress["curve"]:
                            shown["best"] = f"{self.progress['best']:.4f}"
                        bar.set_postfix(shown, refresh=False)
                        self._note("loss/train", float(loss))
                    if self.progress["batch"] in look_at:
                        with self.optimiser.averaged():
                            self.look()
                        if self.progress["waited"] >= self.how.patience:
                            break
                    if self.progress["batch"] == last:
                        break
                    if self.due(saved):
                        self.save()
                        saved = time.monotonic()
            self.progress |= {"epoch": epoch + 1, "batch": 0}

    def due(self, saved: float) -> bool:
        """Whether a checkpoint is to be written, after one at the time `saved`."""
        return time.monotonic() - saved > self.how.checkpoint_s

    @property
    def tables(self) -> list[torch.Tensor]:
        """The tables that an optimiser of tables moves."""
        return list(self.optimiser.tables)

    def start_tables_anew(self) -> None:
        """Ids learnt by heart in one epoch mislead the next; what the attention has learnt meanwhile stays."""
        for module in self.network.modules():
            if getattr(module, "num_embeddings", 0) > self.how.fresh_tables > 0:
                self.start_anew(module)

    def start_anew(self, table: nn.Module) -> None:
        if any(table.weight is weight for weight in self.optimiser.wide):
            nn.init.zeros_(table.weight)
        else:
            start(table)
        self.optimiser.forget(table.weight)

    def step(self, rows: Rows, negative: Rows | None = None) -> torch.Tensor:
        """One batch's step: the mean of its rows' losses; with `negative`, of the pairs (row, negative).

        Raises TrainingError for a loss that is no number, before any weight has moved, and KeyboardInterrupt where the
        run is `interrupted`: here a batch is done whole, and so is what follows on it.
        """
        if self.interrupted and self.progress["batch"]:
            self.save()
            raise KeyboardInterrupt
        self.network.train()
        mine = self.world.share(rows)
        weight = 1.0 if len(mine) else 0.0  # fewer rows than processes: this one's gradient is zero
        mine = mine if len(mine) else rows[:1]
        if negative is None:
            losses = self.losses(self.logit(mine), mine)
        else:
            losses = self.losses_of_pairs(mine, self.world.share(negative) if weight else negative[:1])
        loss = weight * losses.sum() / len(rows)
        whole = self.world.sum(loss.detach().clone())
        if not torch.isfinite(whole):
            raise self._lost(f"the loss is {float(whole)}", self.progress["batch"] + 1)
        loss.backward()
        self.world.sum_gradients(self.network)
        self.optimiser.step(len(rows))
        return whole

    def logit(self, rows: Rows) -> torch.Tensor:
        """Logits of impressions (B,), in 32 bits; on a GPU the products are made in bf16."""
        inputs = to_device(tensors(self.data.batch(rows)), self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return self.network(inputs)[:, 0].float()

    def losses(self, logit: torch.Tensor, rows: Rows) -> torch.Tensor:
        label = torch.from_numpy(self.data.label[rows].astype(np.float32)).to(self.device)
        if self.objective == "watch_time":
            seconds = torch.from_numpy(watch_seconds(self.data, rows)).to(self.device)
            return objective.watch_time(logit, seconds, label, self.how.exposures)
        return objective.click(logit, label)

    def losses_of_pairs(self, positive: Rows, negative: Rows) -> torch.Tensor:
        """-ln σ(x̂_ui - x̂_uj) + λ/2·‖Θ‖² of each pair, (B,); Θ are the table rows that the pair holds."""
        with lookups(self.network, self.tables) as seen:
            logit = self.logit(np.concatenate([positive, negative]))
        return objective.pairs(*logit.chunk(2)) + self.how.l2 / 2 * squares_of_pairs(seen)

    def _count_occurrences(self, rows: Rows) -> None:
        """How many of the impressions `rows` hold each table row: one pass over them, without gradients."""
        mine = batches(self.data, self.world.share(rows), 4096)
        inputs = (to_device(tensors(batch), self.device) for _, batch in mine)
        counts = occurrences(self.network, self.optimiser.tables, inputs)
        self.optimiser.occurrences = [self.world.sum(count) for count in counts]

    def _lost(self, what: str, batch: int) -> TrainingError:
        state = (
            f"the checkpoint {self.checkpoint}" if self.checkpoint.exists() else "the start: no checkpoint is there yet"
        )
        at = f"epoch {self.progress['epoch'] + 1}, batch {batch}"
        hint = "a lower learning_rate may help (with --restart)"
        return TrainingError(f"{what} at {at}; the last good state is {state}; {hint}")

    def _note(self, what: str, value: float) -> None:
        if self.board is not None and self.world.rank == 0:
            self.board.add_scalar(what, value, self.progress["rows"])

    def look(self) -> None:
        """One look at the split that picks the checkpoint: keeps the weights if they are the best so far."""
        rows = self.data.of_split(self.how.select)
        share = self.world.even_share(rows)
        score = self.world.joined(predict(self.network, self.data, share, self.objective, self.device), len(rows))
        if not np.isfinite(score).all():
            raise self._lost("scores are no numbers", self.progress["batch"])
        figures: dict[str, Any] = {"auc": auc(self.data.label[rows], score)}
        picked_by = figures["auc"]
        if self.objective == "click":
            figures["logloss"] = logloss(self.data.label[rows], score)
        elif self.objective == "watch_time":
            figures["watch_correlation"] = picked_by = watch_correlation(self.data, rows, score)
        for name, value in figures.items():
            self._note(f"{name}/{self.how.select}", value)
        total, number = self.progress["losses"]
        self.progress["losses"] = [0.0, 0]
        self.judge(figures | {"train_loss": total / number, "picked_by": picked_by})

    def judge(self, figures: Mapping[str, Any]) -> None:
        """Takes a look's figures into the curve: the best keep their weights, others count as waited."""
        self.progress["curve"].append({"epoch": self.progress["epoch"] + 1, "batch": self.progress["batch"], **figures})
        if figures["picked_by"] > self.progress["best"]:
            self.progress |= {"best": figures["picked_by"], "waited": 0}
            self.best = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        elif not self.at_chance():
            self.progress["waited"] += 1

    def at_chance(self) -> bool:
        """Whether no look so far was better than one of a network that knows nothing."""
        best = max(look["auc"] for look in self.progress["curve"])
        return at_chance(best, self.data.label[self.data.of_split(self.how.select)])

    def save(self) -> None:
        """Writes the checkpoint beside and renames it into place; never one whose weights are no numbers."""
        if self.world.rank or not all(torch.isfinite(part).all() for part in self.network.parameters()):
            return  # the next loss says so
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "identity": self.identity,
            "progress": self.progress,
            "network": self.network.state_dict(),
            "best": self.best,
            "optimiser": self.optimiser.state(),
            "random": torch.get_rng_state(),
            "random_of_gpu": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
        }
        with replacing(self.checkpoint) as partial:
            torch.save(content, partial)

    def resume(self) -> bool:
        """Takes up the checkpoint where there is one. Raises RecipeError when it belongs to another run."""
        if not self.checkpoint.exists():
            return False
        try:
            content = torch.load(self.checkpoint, weights_only=True, map_location=self.device)
            same = completed(content["identity"]) == self.identity  # not where the data was prepared anew
        except (RuntimeError, UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RecipeError(f"{self.checkpoint} cannot be read ({reason}); --restart begins anew") from None
        if not same:
            raise RecipeError(
                f"{self.checkpoint} belongs to a run with another recipe, seed or data; --restart drops it"
            )
        self.progress, self.best = content["progress"], content["best"]
        self.network.load_state_dict(content["network"])
        self.optimiser.load(content["optimiser"])
        torch.set_rng_state(content["random"].cpu())
        if self.device.type == "cuda" and content["random_of_gpu"] is not None:
            torch.cuda.set_rng_state(content["random_of_gpu"].cpu())
        return True


def predict(
    network: nn.Module, data: Prepared, rows: Rows, objective_name: str = "click", device: torch.device | None = None
) -> np.ndarray[Any, Any]:
    """The network's scores of impressions (n,), in torch: for looks at validation while it trains."""
    network.eval()
    of_logit, scores = objective.SCORES[objective_name], [np.empty(0, np.float32)]
    with torch.no_grad():
        for _, inputs in batches(data, rows, at_once(data)):
            logit = network(to_device(tensors(inputs), device or torch.device("cpu")))
            scores.append(of_logit(logit)[:, 0].cpu().numpy())
    return np.concatenate(scores)


def to_device(inputs: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Tensors on the device; to a GPU from pinned memory, so that the copy does not wait."""
    if device.type == "cpu":
        return dict(inputs)
    return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in inputs.items()}
