"""What came of several instances' acts: how their callers' requests ended, and recorded quantiles beside seen ones."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from loadtest.errors import NoRun
from loadtest.generator.answers import OTHER_ITEMS, OTHER_SCORES, SERVED, Kind, Log
from loadtest.quantiles import carried, needed, quantiles_ms
from loadtest.table import table
from loadtest.verdict.report import MOST_LATE, late_share, taken_ms

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
FINE_MS, MOST_OFF = 160.0, 0.05  # up to where the histogram has four buckets to the octave, and how far off is allowed
COUNTS = ("sent", "answered", "degraded", "lost", "crossed", "failed")
BAD = ("lost", "crossed", "failed")
ROWS = {"due": "load test, from due", "send": "load test, from send", "network": "  of it there and back"}
ROWS |= {"inside": "load test, less the way", "recorded": "recorded by Prometheus"}
TIMES = {
    "taken_over_s": "from a primary's SIGKILL until its replica had taken over",
    "recovered_s": "from it until both instances had all users' histories again",
    "published_s": "that service.publish took, which checks the bundle first",
    "bundle_live_s": "from service.publish's start until both instances answered with the bundle",
    "catalog_live_s": "from model.catalog's start until both instances had the catalogue",
    "renewed_s": "to stop and start both instances, one after the other",
}


def counted(logs: Sequence[Log]) -> dict[str, Any]:
    """What became of an act's requests, and their times from when they were due."""
    whys, kinds = [why for log in logs for why in log.whys()], np.concatenate([log.kinds for log in logs])
    crossed = np.array([why in (OTHER_ITEMS, OTHER_SCORES) for why in whys])
    answered, lost = np.isin(kinds, SERVED), kinds == Kind.UNANSWERED
    masks = [answered, kinds == Kind.DEGRADED, lost, crossed, ~(answered | lost | crossed)]
    due_s, sent_s, answered_s = (
        np.concatenate([getattr(log, name) for log in logs]) for name in ("due_s", "sent_s", "answered_s")
    )
    p50, p99 = quantiles_ms((answered_s - due_s)[answered]) if answered.any() else (None, None)
    return dict(zip(COUNTS, [len(kinds), *(int(mask.sum()) for mask in masks)], strict=True)) | {
        "p50_ms": p50,
        "p99_ms": p99,
        "late_share": late_share(due_s, sent_s, p99 or 0),
        "runs": len(logs),
        "faults": _reasons(whys, ~answered),
        "degradations": _reasons(whys, kinds == Kind.DEGRADED),
    }


def _reasons(whys: Sequence[str], which: npt.NDArray[np.bool_]) -> dict[str, int]:
    """The most frequent first."""
    return dict(Counter(why for why, counts in zip(whys, which.tolist(), strict=True) if counts).most_common())


class Steady(NamedTuple):
    """Of the steady act: how many answers its quantiles are of, and by row of the table milliseconds at SHARES.

    `asked`: how many requests each instance counted.
    """

    timed: int
    by_row: Mapping[str, Sequence[float]]
    asked: Sequence[int]

    @classmethod
    def of(cls, log: Log, recorded_ms: Sequence[float], asked: Sequence[int]) -> "Steady":
        """Raises NoRun where answers do not tell what they took."""
        right, taken, at = log.right, taken_ms(log), list(SHARES.values())
        if "network" not in taken or not right.any() or np.isnan(taken["total"][right]).any():
            raise NoRun("no right answers in the steady act, or some without a Server-Timing")
        by_row = {
            "due": quantiles_ms((log.answered_s - log.due_s)[right], at),
            "send": quantiles_ms((log.answered_s - log.sent_s)[right], at),
            "network": quantiles_ms(taken["network"][right] / 1000, at),
            "inside": quantiles_ms(taken["total"][right] / 1000, at),
            "recorded": list(recorded_ms),
        }
        return cls(int(right.sum()), by_row, asked)

    @property
    def over(self) -> list[float]:
        """What is recorded over what was seen, at SHARES."""
        return [recorded / seen for recorded, seen in zip(self.by_row["recorded"], self.by_row["inside"], strict=True)]

    @property
    def judged(self) -> bool:
        """With fewer, single requests decide where in its bucket a quantile lies."""
        return carried(self.timed, SHARES["p99"])


class Findings(NamedTuple):
    """`acts`: by name, as `counted`; `times_s`: by TIMES."""

    acts: Mapping[str, Mapping[str, Any]]
    steady: Steady
    times_s: Mapping[str, float]

    def unmet(self) -> list[str]:
        """What must be and is not, in words."""
        words = []
        for name, act in self.acts.items():
            if bad := [f"{act[kind]} {kind}" for kind in BAD if act[kind]]:
                words.append(f"{name}: {', '.join(bad)} of {act['sent']}: {'; '.join(list(act['faults'])[:3])}")
        if (asked := sum(self.steady.asked)) != (sent := self.acts["steady"]["sent"]):
            words.append(f"steady: the instances counted {asked} requests, {sent} were sent")
        rows = self.steady.by_row
        for name, seen, recorded, over in zip(SHARES, rows["inside"], rows["recorded"], self.steady.over, strict=True):
            if self.steady.judged and recorded < FINE_MS and not abs(over - 1) <= MOST_OFF:
                off = f"{recorded:.2f} ms is recorded, {seen:.2f} ms was seen: {over:.3f}"
                words.append(f"{name}: {off}; at most {MOST_OFF:.0%} off is allowed")
        return words

    def notes(self) -> list[str]:
        """What the figures do without."""
        told = []
        if not self.steady.judged:
            told.append(f"what is recorded is not judged: {self.steady.timed} requests, it takes {needed(0.99)}")
        for name, recorded in zip(SHARES, self.steady.by_row["recorded"], strict=True):
            if not recorded < FINE_MS:
                told.append(f"{name} is not judged: {recorded:.0f} ms; buckets are fine below {FINE_MS:.0f} ms")
        for name, act in self.acts.items():
            if act["late_share"] > MOST_LATE:
                told.append(f"{name}: {act['late_share']:.1%} of the sends left late: the machine is busy")
            if act["runs"] > 1:
                told.append(f"{name} took {act['runs']} runs of load, a moment apart: a longer --act-s makes it one")
        return told

    def figures(self) -> dict[str, Any]:
        """For scripts."""
        steady = self.steady
        figures: dict[str, Any] = {name: sum(act[name] for act in self.acts.values()) for name in COUNTS}
        figures |= dict(self.times_s)
        figures |= {f"recorded_over_inside_{share}": over for share, over in zip(SHARES, steady.over, strict=True)}
        for row, milliseconds in steady.by_row.items():
            figures |= {f"{row}_{share}_ms": ms for share, ms in zip(SHARES, milliseconds, strict=True)}
        figures |= {
            "steady_by_instance": list(steady.asked),
            "late_share": self.acts["steady"]["late_share"],
            "acts": self.acts,
        }
        return figures | {"unmet": self.unmet(), "note": "; ".join(self.notes()) or None}

    def show(self) -> str:
        """For people."""
        shown = (*COUNTS, "p50_ms", "p99_ms")
        acts = {name: [*(act[key] for key in shown), f"{act['late_share']:.1%}"] for name, act in self.acts.items()}
        rows = {ROWS[row]: ms for row, ms in self.steady.by_row.items()} | {
            "recorded over less the way": self.steady.over
        }
        lines = [table("act", [*(name.replace("_", " ") for name in shown), "sent late"], acts)]
        for name, act in self.acts.items():
            lines += [
                f"{name}: {count} x {why}" for kind in ("faults", "degradations") for why, count in act[kind].items()
            ]
        lines += [table("steady, milliseconds", list(SHARES), rows)]
        lines += [f"steady, counted by each instance: {', '.join(map(str, self.steady.asked))}"]
        lines += [f"{seconds:.1f} s {TIMES[name]}" for name, seconds in self.times_s.items()]
        return "\n".join([*lines, *self.notes()])
