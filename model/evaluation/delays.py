"""Figures by feedback delay: what a model is worth where the newest behaviours are not known yet.

Every delay is measured on the same rows with the same labels, and gaps are counted from the impression; only the
histories end earlier. `model.prepare --delay` trains with one delay, whatever is measured here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model.bundle.reading import Bundle
from model.bundle.session import Session
from model.evaluation.measure import score_rows
from model.evaluation.metrics import auc, gauc, logloss
from model.prepared.loader import Prepared

SHARES = (0.1, 0.5, 0.9)  # the quantiles that the service's dashboard draws


def by_delay(
    bundle: Bundle,
    data: Prepared,
    rows: npt.NDArray[np.int64],
    delays_s: Sequence[float],
    session: Session | None = None,
) -> list[dict[str, Any]]:
    """The exported model's figures of impressions (n,) where behaviours newer than each delay are not known yet.

    By its fp32 graph unless a session is given.

    `history_age_s` are the quantiles SHARES of the seconds since the newest behaviour, of the impressions that have
    one: what `ranker_history_age_seconds` counts in service. None where none has.
    """
    label, user = data.label[rows], data.user[rows]
    every = []
    for delay_s in delays_s:
        delayed = data.delayed(delay_s)
        score, age_s = score_rows(bundle, delayed, rows, session), _ages_s(delayed, rows)
        every.append(
            {
                "delay_s": delay_s,
                "auc": auc(label, score),
                "gauc": gauc(label, score, user),
                "logloss": logloss(label, score) if bundle.manifest["objective"] == "click" else None,
                "with_history": len(age_s) / len(rows),
                "history_age_s": np.quantile(age_s, SHARES).tolist() if len(age_s) else None,
            }
        )
    return every


def _ages_s(data: Prepared, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Seconds from the newest behaviour to each impression that has a history, (at most n,)."""
    begin, end = data.arrays["begin"][data.user[rows]], data.arrays["end"][rows]
    there = end > begin
    ages_ms = data.time[rows][there] - data.arrays["clicked_at"][end[there] - 1]
    return np.asarray(ages_ms / 1000)


def table(by_delay: Sequence[dict[str, Any]]) -> str:
    """The figures for people, a line a delay."""
    lines = [f"{'delay s':>10}{'auc':>9}{'gauc':>9}{'with history':>14}  history's age s (p10/p50/p90)"]
    for row in by_delay:
        figures = "".join(f"{'-' if row[name] is None else format(row[name], '.4f'):>9}" for name in ("auc", "gauc"))
        ages = "/".join(f"{age:.0f}" for age in row["history_age_s"] or ()) or "-"
        lines.append(f"{row['delay_s']:>10g}{figures}{row['with_history']:>14.1%}  {ages}")
    return "\n".join(lines)
