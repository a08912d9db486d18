"""One shadow: a bundle that scores logged requests again, and how its scores stand to those that decided."""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.bundle.layout import CATALOG, COUNTS
from model.bundle.precision import Precision, choose
from model.bundle.reading import Bundle
from model.bundle.session import Session
from model.features.encode import Candidate
from model.features.ids import canonical
from model.features.kinds import ITEM_ID
from model.servicelog.records import Impression, Shadowed
from service.models.target import target_of

RECENT = 1000  # requests whose figures the metrics show


@dataclass(frozen=True)
class Compared:
    """Of one request."""

    correlation: float | None  # Spearman's, of the live scores and the shadow's; None: one item, or scores all alike
    shift: float  # mean of the shadow's scores less that of the live ones


@dataclass
class Shadow:
    """Raises BundleError where the bundle cannot be opened."""

    name: str
    share: float
    folder: Path
    precision: Precision = "auto"
    requests: int = 0
    passed_over: int = 0  # of its share, since it came too late to them, or they could not be encoded
    recent: deque[Compared] = field(default_factory=lambda: deque(maxlen=RECENT))

    def __post_init__(self) -> None:
        self._open()

    def refresh(self) -> None:
        """Takes over another bundle, catalogue or counts in the same place. Raises BundleError."""
        if self._state() != self._opened:
            self._open()

    def score(self, request: Impression) -> Shadowed:
        """Raises BadValue, for what this model cannot read."""
        bundle = self._bundle
        candidates: list[Candidate] = [
            {**item.features, ITEM_ID: item.item_id} if item.features else item.item_id for item in request.items
        ]
        encoded = bundle.encoder.encode(
            canonical(request.user_id, bundle.schema.user_id),
            request.profile,
            request.behaviours,
            candidates,
            request.now,
            bundle.catalog,
            user=request.user,
            context=request.context,
            shown_today=request.shown_today,
        )
        scores_C = bundle.score(self._session, encoded.inputs)[0]
        self.requests += 1
        self.recent.append(compared(np.array([item.score for item in request.items]), scores_C))
        ids = [item.item_id for item in request.items]
        items = list(zip(ids, scores_C.tolist(), strict=True))
        return Shadowed(
            request.request_id,
            request.user_id,
            request.now,
            request.read_us,
            self.name,
            bundle.name,
            bundle.version,
            items,
        )

    def told(self) -> dict[str, Any]:
        correlations = [one.correlation for one in self.recent if one.correlation is not None]
        shifts = [one.shift for one in self.recent]
        return {
            "shadow": self.name,
            "model": self._bundle.name,
            "version": self._bundle.version,
            "requests": self.requests,
            "passed_over": self.passed_over,
            "rank_correlation": float(np.mean(correlations)) if correlations else None,
            "score_shift": float(np.mean(shifts)) if shifts else None,
        }

    def _open(self) -> None:
        self._opened = self._state()
        bundle = Bundle.open(self.folder)
        bundle.verify_swapped()
        chosen = choose(bundle, self.precision)
        if chosen.precision == "fp32":
            bundle.replay_golden(chosen.session)
        self._bundle: Bundle = bundle
        self._session: Session = chosen.session

    def _state(self) -> tuple[object, ...]:
        target = target_of(self.folder)
        return target, *(_stamp(target.folder / name) for name in (CATALOG, COUNTS))


def compared(live_C: npt.NDArray[np.float64], shadow_C: npt.NDArray[np.float32]) -> Compared:
    shift = float(shadow_C.mean(dtype=np.float64) - live_C.mean())
    one, other = _ranks(live_C), _ranks(shadow_C.astype(np.float64))
    if len(live_C) < 2 or not one.std() or not other.std():
        return Compared(None, shift)
    return Compared(float(np.corrcoef(one, other)[0, 1]), shift)


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """From 0; those that are alike share the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[which]


def _stamp(path: Path) -> object:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
