"""Whether an int8 graph, or one on tables of less than fp32, ranks as well as the fp32 one: on average and at worst.

AUC is judged on impressions that the model was not trained on: of validation, else of test. Where none are left (a
model trained on all days) nothing says what int8 costs in AUC, and agreement alone decides. Agreement is judged on
requests: impressions of the same split, each with items drawn at random, scored by both graphs; for all of them, and
for every segment (segments.py) of which there are enough.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from model.bundle.layout import INT8
from model.bundle.reading import Bundle
from model.bundle.session import Session
from model.evaluation.measure import score_rows
from model.evaluation.metrics import auc
from model.features.encode import Inputs
from model.graph import golden
from model.graph.segments import Rows, Segment, segments
from model.prepared.loader import Prepared
from model.prepared.splits import SPLITS

LISTS, CANDIDATES = 200, 100  # requests drawn from all impressions, and the candidates of each
LISTS_EACH = 20  # requests of a segment: the mean tau of so many is known to some 0.001
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Bounds:
    """What int8 and smaller tables may cost. Options of model.export."""

    most_auc_drop: float = 0.0005  # an eighth of the AUC's standard error on 13,000 impressions
    least_tau: float = 0.99  # Kendall's tau to the fp32 order, mean over requests: 1 pair of candidates in 200 swapped
    least_segment_tau: float = 0.98  # the same in the worst segment: 1 pair in 100 swapped
    most_shift: float = 0.005  # of a segment's mean score: half a click expected too much in a hundred impressions
    least_rows: int = 10  # impressions of a segment that is judged; a smaller one has no say, its figures are reported

    def refusals(self, figures: Mapping[str, Any]) -> list[str]:
        """What is beyond its bound, a sentence each."""
        drop, tau, shift = figures["auc_drop"], figures["kendall_tau"], figures["shift"]
        told = []
        if drop is not None and drop > self.most_auc_drop:
            told.append(f"AUC falls by {drop:.5f}, at most {self.most_auc_drop:g} is allowed")
        if tau < self.least_tau:
            told.append(f"Kendall's tau is {tau:.4f}, at least {self.least_tau:g} is needed")
        if abs(shift) > self.most_shift:
            told.append(f"the mean score shifts by {shift:+.4f}, at most {self.most_shift:g} is allowed")
        worst_tau, worst_shift = figures["worst_tau"], figures["worst_shift"]
        if worst_tau and worst_tau["kendall_tau"] < self.least_segment_tau:
            told.append(
                f"Kendall's tau is {worst_tau['kendall_tau']:.4f} for {worst_tau['segment']}, at least "
                f"{self.least_segment_tau:g} is needed"
            )
        if worst_shift and abs(worst_shift["shift"]) > self.most_shift:
            told.append(
                f"the mean score shifts by {worst_shift['shift']:+.4f} for {worst_shift['segment']}, at most "
                f"{self.most_shift:g} is allowed"
            )
        return told


def judge(
    bundle: Bundle,
    data: Prepared,
    graph: Path,
    bounds: Bounds | None = None,
    fp32: Session | None = None,
    form: str = INT8,
) -> dict[str, Any]:
    """The gate's figures of a graph beside `fp32`, which is by default the bundle's own; `form` names the other."""
    bounds = bounds or Bounds()
    both = fp32 or bundle.session(), bundle.session(graph)
    split, unseen = judged_on(data, bundle.manifest.get("trained_on", ["train"]))
    rows = data.of_split(split)
    whole, judged = (score_rows(bundle, data, rows, session) for session in both)
    aucs = [auc(data.label[rows], scores) if unseen else None for scores in (whole, judged)]
    highest = np.argsort(-whole, kind="stable")[: -(-len(rows) // 100)]
    found = [*segments(data, rows), Segment("the highest hundredth of scores", np.sort(rows[highest]))]
    draw = np.random.default_rng(2)
    of_all, of_each = drawn(rows, LISTS, draw), [drawn(segment.rows, LISTS_EACH, draw) for segment in found]
    tau = _taus(bundle, data, np.unique(np.concatenate([of_all, *of_each])), both, draw)
    by_segment: list[dict[str, Any]] = [
        {
            "segment": segment.name,
            "rows": len(segment.rows),
            "shift": float(np.mean((judged - whole)[np.searchsorted(rows, segment.rows)])),
            "kendall_tau": float(np.mean([tau[row] for row in of_segment.tolist()])),
        }
        for segment, of_segment in zip(found, of_each, strict=True)
    ]
    many = [segment for segment in by_segment if segment["rows"] >= bounds.least_rows]
    figures = {
        "split": split,
        "unseen": unseen,
        "rows": len(rows),
        "auc_fp32": aucs[0],
        f"auc_{form}": aucs[1],
        "auc_drop": aucs[0] - aucs[1] if aucs[0] is not None and aucs[1] is not None else None,
        "kendall_tau": float(np.mean([tau[row] for row in of_all.tolist()])),
        "lists": len(of_all),
        "shift": float(np.mean(judged - whole)),
        "max_abs_diff": float(np.abs(judged - whole).max()),
        "worst_tau": min(many, key=lambda segment: segment["kendall_tau"], default=None),
        "worst_shift": max(many, key=lambda segment: abs(segment["shift"]), default=None),
        "segments": by_segment,
        "bounds": asdict(bounds),
        "golden_max_abs_diff": _apart(bundle, both[1]),
    }
    refused = bounds.refusals(figures)
    return {"accepted": not refused, "refused": refused, **figures}


def judged_on(data: Prepared, trained_on: Sequence[str]) -> tuple[str, bool]:
    """The split to judge on, and whether the model has not seen it: validation, else test, which is opened least.

    A split without impressions, or of one class, has no AUC. Where none is left that has: the newest impressions.
    """
    filled = [split for split in SPLITS if len(data.of_split(split))]
    for split in ("validation", "test"):
        if split in filled and split not in trained_on and len(np.unique(data.label[data.of_split(split)])) > 1:
            return split, True
    return filled[-1], False


def kendall_tau(one: Floats, other: Floats) -> float:
    """Kendall's tau-b of two scorings of the same items, (n,) each; 1 where one of them ties everything."""
    first, second = (np.sign(np.subtract.outer(s, s))[np.triu_indices(len(s), 1)] for s in (one, other))
    norm = float(np.sqrt(np.abs(first).sum() * np.abs(second).sum()))
    return float((first * second).sum()) / norm if norm else 1.0


def lists(bundle: Bundle, data: Prepared, rows: Rows, draw: np.random.Generator) -> list[Inputs]:
    """Requests of the impressions `rows`, in ascending order, with items drawn at random; as the service encodes."""
    requests = golden.requests(data, rows, len(rows), CANDIDATES, draw)
    return [bundle.encode_golden(request, bundle.catalog) for request in requests]


def drawn(rows: Rows, count: int, draw: np.random.Generator) -> Rows:
    """So many of `rows`, or all of them where there are no more."""
    return draw.choice(rows, min(count, len(rows)), replace=False)


def _taus(
    bundle: Bundle, data: Prepared, rows: Rows, both: tuple[Session, Session], draw: np.random.Generator
) -> dict[int, float]:
    """Kendall's tau of a request of each of the impressions `rows`, which are ascending."""
    requests = tqdm(lists(bundle, data, rows, draw), "judging", unit="request", delay=1, leave=False)
    scored = [[bundle.score(session, inputs)[0] for session in both] for inputs in requests]
    return {row: kendall_tau(*scores) for row, scores in zip(rows.tolist(), scored, strict=True)}


def _apart(bundle: Bundle, session: Session) -> float:
    """Largest difference to a recorded score."""
    answers = ((bundle.score(session, bundle.encode_golden(one))[0], one["scores"]) for one in bundle.golden())
    return max(float(np.abs(scores - np.asarray(recorded)).max()) for scores, recorded in answers)
