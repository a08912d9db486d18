"""Finished runs → the dict that report.json holds and the page shows; nothing on the page comes from elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from model.evaluation.boosting.kept import boosted_scores
from model.evaluation.bootstrap import LEVEL, RESAMPLES, SEED, Floats, Interval, difference, interval, resampled_aucs
from model.evaluation.measure import floor_scores, meaning, measure, repeated
from model.evaluation.metrics import auc, coverage
from model.evaluation.opened import count
from model.evaluation.rules import repeats, rule_scores
from model.prepared.loader import Prepared
from model.prepared.splits import SPLITS
from model.reproduction import papers, probes
from model.reproduction.variants import ABLATIONS, Variant

MEANS = ("gauc", "logloss", "calibration", "watch_correlation", "watch_calibration")  # of figures, over the seeds


@dataclass(frozen=True)
class Finished:
    """One run that is done: result.json, and its scores of the test impressions. One that failed has no scores."""

    variant: Variant
    seed: int
    result: Mapping[str, Any]
    scores: npt.NDArray[np.float32] | None


@dataclass
class Exam:
    """The test impressions, on which all are compared. What was resampled once is kept."""

    data: Prepared
    resamples: int = RESAMPLES
    _kept: dict[Any, npt.NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = self.data.of_split("test")
        self.label, self.user = self.data.label[self.rows], self.data.user[self.rows]
        self._floors: dict[tuple[str, ...], Floats] = {}
        self._boosted: dict[tuple[bool, tuple[str, ...]], Floats | None] = {}
        self._rules: dict[tuple[str, ...], dict[str, Floats]] = {}
        self.fresh = ~repeats(self.data, self.rows) if self.drawn else None

    @property
    def drawn(self) -> bool:
        """Whether nobody was shown the negatives."""
        return bool(self.data.meta.get("drawn_negatives", False))

    def resampled(self, key: Any, score: Floats) -> npt.NDArray[np.float64]:
        if key not in self._kept:
            self._kept[key] = resampled_aucs(self.label, score, self.user, self.resamples)
        return self._kept[key]

    def floor(self, trained_on: Sequence[str]) -> "Contestant":
        """The no-learning floor, counted on the splits that a network was trained on."""
        key = tuple(trained_on)
        if key not in self._floors:
            self._floors[key] = floor_scores(self.data, self.rows, key)
        return Contestant(self, {("floor", key): self._floors[key]})

    def boosted(self, trained_on: Sequence[str], derived: bool = False) -> "Contestant | None":
        """Gradient boosting on the splits that a network was trained on; None where lightgbm is not installed.

        `derived`: given match and statistic features as well; None also where the data has none.
        """
        key = (derived, tuple(trained_on))
        if key not in self._boosted:
            self._boosted[key] = boosted_scores(self.data, self.rows, trained_on, derived)
        scores = self._boosted[key]
        return None if scores is None else Contestant(self, {("boosted", key): scores})

    def rules(self, trained_on: Sequence[str]) -> "dict[str, Contestant]":
        """What learns nothing, by name, the best one first; popularity is counted on what a network was trained on."""
        key = tuple(trained_on)
        if key not in self._rules:
            self._rules[key] = rule_scores(self.data, self.rows, key)
        rules = {name: Contestant(self, {("rule", name, key): own}) for name, own in self._rules[key].items()}
        return dict(sorted(rules.items(), key=lambda rule: -rule[1].aucs[0]))

    def oracle(self) -> "Contestant | None":
        """The probabilities that clicks were drawn with, where the log knows them."""
        truth = self.data.arrays.get("true_probability")
        return None if truth is None else Contestant(self, {"oracle": np.asarray(truth[self.rows])})


class Contestant:
    """Scores of one kind, one array for each seed, by a key that tells them from all others."""

    def __init__(self, exam: Exam, scores: Mapping[Any, Floats]):
        self.scores = list(scores.values())
        self.aucs = [auc(exam.label, score) or 0.0 for score in self.scores]
        self.resampled = [exam.resampled(key, score) for key, score in scores.items()]
        fresh = exam.fresh
        self.fresh_aucs = [] if fresh is None else [auc(exam.label[fresh], score[fresh]) for score in self.scores]

    @property
    def interval(self) -> Interval:
        return interval(self.aucs, self.resampled)

    def above(self, other: "Contestant") -> Interval:
        return difference(self.aucs, self.resampled, other.aucs, other.resampled)


def gather(
    exam: Exam,
    variants: Sequence[Variant],
    finished: Sequence[Finished],
    planned: int,
    ablations: Sequence[Variant] = (),
    peers: Mapping[str, Sequence[Floats]] | None = None,
    times_ms: Mapping[str, Mapping[str, float]] | None = None,
    trials: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The report of `variants` (and of `ablations`, which are set apart) on `planned` runs, as far as they are done.

    `trials`: how many settings were tried on validation for a network or a peer, where that is known.
    """
    done: dict[str, list[Finished]] = {}
    for run in sorted(finished, key=lambda run: run.seed):
        done.setdefault(run.variant.folder, []).append(run)
    contestants = {}
    for variant in (*variants, *ablations):
        runs = done.get(variant.folder, [])
        scores = {(variant.folder, run.seed): run.scores for run in runs if run.scores is not None}
        if scores:
            contestants[variant.label] = Contestant(exam, scores)
    contestants |= {
        name: Contestant(exam, {("peer", name, number): score for number, score in enumerate(scores)})
        for name, scores in (peers or {}).items()
    }
    reference = standard("bst", variants)
    to = contestants.get(reference.label) if reference else None
    times_ms = times_ms or {}
    of_wdl = times_ms.get(wdl.folder, {}) if (wdl := standard("wdl", variants)) else {}

    chosen = _chosen(variants, done)
    networks: dict[str, dict[str, Any]] = {}
    for variant in (*variants, *ablations):
        runs = done.get(variant.folder, [])
        entry: dict[str, Any] = {
            "network": variant.network,
            "options": dict(variant.options),
            "kind": "warning" if variant.peeks else "ablation" if variant in ablations else "main",
            "seeds": [run.seed for run in runs if run.scores is not None],
            "failed": {str(run.seed): run.result["failed"] for run in runs if run.scores is None},
        }
        if variant in ablations:
            switch = variant.label.rpartition(":")[2]
            entry |= {"switch": switch, "changes": ABLATIONS[switch]}
        if variant.label in contestants:
            own, scored = contestants[variant.label], [run for run in runs if run.scores is not None]
            trained_on = scored[0].result["trained_on"]
            entry |= _judged(exam, own, to if variant != reference else None, trained_on)
            entry |= _of_runs(exam, scored, own) | {"trained_on": trained_on}
            entry["score_ms"] = times_ms.get(variant.folder)
            entry["over_wdl"] = {
                count: ms / of_wdl[count] for count, ms in (entry["score_ms"] or {}).items() if count in of_wdl
            }
        networks[variant.label] = entry
    for name in peers or {}:
        networks[name] = _peer(exam, contestants[name], to, _trained_on(finished)[0])

    rules = exam.rules(_trained_on(finished)[0])
    floors = [{"trained_on": on, **_figures(exam.floor(on))} for on in _trained_on(finished)]
    boosted, informed = (
        [{"trained_on": on, **_figures(trees)} for on in _trained_on(finished) if (trees := exam.boosted(on, derived))]
        for derived in (False, True)
    )
    oracle = exam.oracle()
    return {
        "dataset": exam.data.meta["dataset"],
        "progress": {"done": len(finished), "planned": planned},
        "data": _data(exam),
        "bootstrap": {"resamples": exam.resamples, "seed": SEED, "level": LEVEL, "clusters": "users and seeds"},
        "reference": reference.label if reference else None,
        "chosen": chosen.label if chosen else None,
        "floors": floors,
        "floor_auc": floors[0]["auc_mean"],
        "boosted": boosted,
        "gbdt_auc": boosted[0]["auc_mean"] if boosted else None,
        "boosted_derived": informed,
        "gbdt_derived_auc": informed[0]["auc_mean"] if informed else None,
        "rules": {name: _figures(rule) for name, rule in rules.items()},
        "trials": dict(trials or {}),
        "oracle": _figures(oracle) if oracle else None,
        "oracle_auc": oracle.aucs[0] if oracle else None,
        "networks": networks,
        "order": _order(variants, contestants),
        "against_peers": _against(variants, chosen or reference, contestants, list(peers or {}), trials or {}),
        "papers": {
            "bst": {row: _beside(row, asdict(printed), variants) for row, printed in papers.BST_TABLE_4.items()},
            "atrank": {row: _beside(row, asdict(printed), variants) for row, printed in papers.ATRANK_TABLE.items()},
        },
    }


def standard(row: str, variants: Sequence[Variant]) -> Variant | None:
    """The variant that stands for a row of the papers' tables, `bst` or `bst:b=2`: the one with the fewest options."""
    network, _, blocks = row.partition(":b=")
    own = [v for v in variants if v.network == network and not v.peeks and v.blocks == int(blocks or 1)]
    return min(own, key=lambda variant: len(variant.options), default=None)


def _beside(row: str, printed: dict[str, Any], variants: Sequence[Variant]) -> dict[str, Any]:
    ours = standard(row, variants)
    return printed | {"ours": ours.label if ours else None}


def _judged(exam: Exam, own: Contestant, to: Contestant | None, trained_on: Sequence[str]) -> dict[str, Any]:
    to_floor, boosted = own.above(exam.floor(trained_on)), exam.boosted(trained_on)
    to_boosted = own.above(boosted) if boosted else None
    name, rule = next(iter(exam.rules(trained_on).items()))
    to_rule = own.above(rule)
    return _figures(own) | {
        "to_reference": asdict(own.above(to)) if to else None,
        "to_floor": asdict(to_floor),
        "below_floor": to_floor.mean < 0,
        "to_boosted": asdict(to_boosted) if to_boosted else None,
        "below_boosted": to_boosted is not None and to_boosted.mean < 0,
        "to_rule": {"rule": name, **asdict(to_rule)},  # the one that is best on test: to its advantage
        "below_rule": to_rule.mean < 0,
    }


def _figures(own: Contestant) -> dict[str, Any]:
    mean_auc = own.interval
    return {
        "auc": own.aucs,
        "auc_mean": mean_auc.mean,
        "auc_sd": float(np.std(own.aucs, ddof=1)) if len(own.aucs) > 1 else None,
        "ci95": [mean_auc.low, mean_auc.high],
        "auc_without_repeats": _mean(own.fresh_aucs),
    }


def _of_runs(exam: Exam, runs: Sequence[Finished], own: Contestant) -> dict[str, Any]:
    """What runs tell about a variant beside its AUC; what is drawn once is drawn from the first seed."""
    results = [run.result for run in runs]
    first = results[0]
    return {
        **{key: _mean([result["figures"].get(key) for result in results]) for key in MEANS},
        "objective": first["objective"],
        "rows_per_s": _mean([result["rows_per_s"] for result in results]),
        "parameters": first["parameters"],
        "train_s": _mean([result["seconds"] for result in results]),
        "curves": {str(run.seed): run.result["curve"] for run in runs},
        "calibration_bins": first["figures"].get("calibration_bins"),
        "auc_by_history": _by_history(exam, own),
        "attention": first["attention"],
        "recipe": first["identity"]["recipe"],
        "recipe_from": first.get("recipe_from"),  # older results do not say
        "recipe_reasons": first.get("recipe_reasons", []),
        "warnings": first.get("warnings", []),
        "recipes_differ": any(result["identity"]["recipe"] != first["identity"]["recipe"] for result in results),
        "versions": first["versions"],
        "machine": first["machine"],
    }


def _peer(exam: Exam, own: Contestant, to: Contestant | None, trained_on: Sequence[str]) -> dict[str, Any]:
    """Another program's network, of which nothing but scores is known; probabilities or what ranks like them."""
    figures = []
    for score in own.scores:
        objective = "click" if 0 <= score.min() and score.max() <= 1 else "pairs"
        figures.append(measure(exam.data, exam.rows, score, objective=objective, boosting=False))
    return {
        "kind": "peer",
        "seeds": list(range(1, len(own.scores) + 1)),
        "failed": {},
        **_judged(exam, own, to, trained_on),
        **{key: _mean([one.get(key) for one in figures]) for key in MEANS},
        "auc_by_history": _by_history(exam, own),
    }


def _by_history(exam: Exam, own: Contestant) -> list[float | None]:
    of_seeds = [probes.auc_by_history(exam.data, exam.rows, score) for score in own.scores]
    return [_mean(list(bins)) for bins in zip(*of_seeds, strict=True)]


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def _trained_on(finished: Sequence[Finished]) -> list[list[str]]:
    """The sets of splits that networks were trained on, the most usual first: with bounds of its own each."""
    counted: dict[tuple[str, ...], int] = {}
    for run in finished:
        if run.scores is not None:
            key = tuple(run.result["trained_on"])
            counted[key] = counted.get(key, 0) + 1
    return [list(key) for key in sorted(counted, key=lambda key: -counted[key])] or [["train"]]


def _order(variants: Sequence[Variant], contestants: Mapping[str, Contestant]) -> list[dict[str, Any]]:
    """Differences between neighbours in the paper's order, each to the one below it."""
    there = [variant.label for name in papers.ORDER if (variant := standard(name, variants))]
    there = [label for label in there if label in contestants]
    return [
        {"better": better, "worse": worse, **asdict(contestants[better].above(contestants[worse]))}
        for worse, better in zip(there, there[1:], strict=False)
    ]


def _chosen(variants: Sequence[Variant], done: Mapping[str, Sequence[Finished]]) -> Variant | None:
    """The network that is best on validation, in the mean of its seeds; None where none looked at it."""
    looked = {
        variant: [max(run.result["curve"], key=lambda look: look["picked_by"])["auc"] for run in runs]
        for variant in variants
        if not variant.peeks
        and (runs := [run for run in done.get(variant.folder, []) if run.scores is not None and run.result["curve"]])
    }
    return max(looked, key=lambda variant: float(np.mean(looked[variant])), default=None)


def _against(
    variants: Sequence[Variant],
    best: Variant | None,
    contestants: Mapping[str, Contestant],
    peers: Sequence[str],
    trials: Mapping[str, int],
) -> list[dict[str, Any]]:
    """How far ours are above another library's: the one of its name (the peer's last word), and our best."""
    differences = []
    for peer in peers:
        both = {ours.label: ours for ours in (standard(peer.rpartition(" ")[2].lower(), variants), best) if ours}
        for ours in (ours for label, ours in both.items() if label in contestants):
            above = contestants[ours.label].above(contestants[peer])
            tried = {"our_trials": trials.get(ours.label), "their_trials": trials.get(peer)}
            differences.append({"ours": ours.label, "theirs": peer, **asdict(above), **tried})
    return differences


def _data(exam: Exam) -> dict[str, Any]:
    data, before = exam.data, probes.behaviours_before(exam.data, exam.rows)
    bins = [(before >= low) & (before <= (before.max() if high is None else high)) for low, high in probes.HISTORY_BINS]
    return {
        "meta": data.meta,
        "fingerprint": data.fingerprint,
        "impressions": {split: len(data.of_split(split)) for split in SPLITS},
        "test_users": len(np.unique(exam.user)),
        "test_clicks": int(exam.label.sum()),
        "test_by_history": [int(chosen.sum()) for chosen in bins],
        "gauc_coverage": dict(zip(("impressions", "users"), coverage(exam.label, exam.user), strict=True)),
        "repeats": repeated(exam.label, exam.fresh) if exam.fresh is not None else None,
        "scores": meaning("click", exam.drawn),
        "test_opened": count(data),
    }
