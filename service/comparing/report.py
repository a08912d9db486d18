"""Arms compared → the dict that experiment.json holds and the page shows; nothing on the page comes from elsewhere."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from model.bundle.errors import BundleError
from model.bundle.layout import REPORT, located
from model.servicelog.reading import LogError
from service.comparing import words
from service.comparing.arms import Arm, Compared, Wanted
from service.comparing.live import Live
from service.comparing.statistics import (
    ALPHA,
    PLANNED,
    Gain,
    Moments,
    gain,
    rate_interval,
    sample_ratio,
    users_needed,
)

CONTROL = "control"  # the arm of this name is control where none is named
MISMATCH = 0.01  # a p-value below tells that users came to the arms by other shares

Shares = Mapping[str, float]


def report(
    log: Path | str,
    wanted: Wanted,
    compared: Compared,
    control: str | None,
    shares: Shares,
    bundles: Sequence[Path],
    live: Live | None = None,
) -> dict[str, Any]:
    """`live`: what the service tells, by which control and shares go that are not given.

    Raises LogError for a control or shares that the log does not have, and for bundles without a report.
    """
    if live is not None:
        control, shares = control or live.control, shares or live.shares
    names = [arm.name for arm in compared.arms]
    at = names.index(_control(control, compared.arms))
    alpha = ALPHA / max(1, len(names) - 1)  # Bonferroni: all intervals together miss the truth with the chance ALPHA
    gains = {a: gain(compared.moments.of(a), compared.moments.of(at), alpha) for a in range(len(names)) if a != at}
    aucs = _aucs(bundles)
    told = {
        "log": str(log),
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "label": wanted.rule.label,
        "window_s": wanted.rule.window_ms / 1000,
        "days": list(wanted.days),
        "mixed": wanted.mixed,
        "control": names[at],
        "control_named": control is not None or names[at] == CONTROL,
        "alpha": alpha,
        "planned_gain": PLANNED,
        "begin": min(arm.begin for arm in compared.arms),
        "end": max(arm.end for arm in compared.arms),
        "counts": compared.counts,
        "arms": [_arm(compared, a, at, gains.get(a), aucs, alpha) for a in sorted(range(len(names)), key=at.__ne__)],
        "sample_ratio": _sample_ratio(compared, names, shares),
        "shares_changed": None if live is None else live.shares_changed,
        "series": {"times": compared.times.tolist(), "gains": {names[a]: _series(g) for a, g in gains.items()}},
        "segments": _segments(compared, names),
        "bundles_named": bool(bundles),
        "shadows": [asdict(shadow) for shadow in compared.shadows],
        "examination": list(compared.looked),
    }
    doubts = words.doubts(told)
    return told | {"doubts": doubts, "left_out": words.left_out(told), "verdict": words.verdict(told, bool(doubts))}


def _control(named: str | None, arms: Sequence[Arm]) -> str:
    names = [arm.name for arm in arms]
    if named is not None and named not in names:
        raise LogError(f"--control {named!r} given, arms of the log are: {', '.join(names)}")
    return named or (CONTROL if CONTROL in names else min(arms, key=lambda arm: (arm.begin, arm.name)).name)


def _arm(
    compared: Compared, a: int, control: int, own: Gain | None, aucs: Mapping[Any, float], alpha: float
) -> dict[str, Any]:
    arm, last = compared.arms[a], compared.moments.of((a, -1))
    low, high = rate_interval(last)
    told: dict[str, Any] = {
        "name": arm.name,
        "models": [" ".join(model) for model in arm.models],
        "offline_auc": aucs.get(arm.models[0]) if arm.models else None,
        "users": int(last.users),
        "impressions": int(last.x),
        "clicks": int(last.y),
        "ctr": float(last.y / last.x),
        "ctr_interval": _pair(low, high),
        "degraded": arm.degraded,
        "response": asdict(arm.response),
        "begin": arm.begin,
        "end": arm.end,
        "gain": None,
    }
    if own is not None:
        needed = users_needed(last, compared.moments.of((control, -1)), PLANNED, alpha)
        told["gain"] = _gain(own, compared.times) | {"users_needed": needed}
    return told


def _gain(own: Gain, times: Any) -> dict[str, Any]:
    """The last look's, and since which look it is decided; `was` tells of an earlier decision that does not hold."""
    sign = np.where(own.low > 0, 1, np.where(own.high < 0, -1, 0))  # nan compares as neither
    now, ever = int(sign[-1]), np.flatnonzero(sign)
    since = int(times[np.flatnonzero(sign == now)[0]]) if now else None
    was = int(times[ever[0]]) if len(ever) and not (sign[ever] == now).all() else None
    return {
        "estimate": _number(own.estimate[-1]),
        "interval": _pair(own.low[-1], own.high[-1]),
        "decided": now,
        "since": since,
        "was": was,
    }


def _series(own: Gain) -> dict[str, list[float | None]]:
    return {name: [_number(value) for value in values] for name, values in own._asdict().items()}


def _sample_ratio(compared: Compared, names: Sequence[str], shares: Shares) -> dict[str, Any]:
    if shares and set(shares) != set(names):
        raise LogError(f"--shares or --live names {', '.join(shares)}, arms of the log are: {', '.join(names)}")
    expected = np.array([shares.get(name, 1.0) for name in names])
    expected = expected / expected.sum()
    p = sample_ratio(compared.order, expected)
    return {"p": p, "well": p >= MISMATCH, "shares": dict(zip(names, expected.tolist(), strict=True))} | {
        "named": bool(shares)
    }


def _segments(compared: Compared, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    return {
        segment: [
            {"at": at, "arm": names[a], "impressions": int(m.x), "ctr": float(m.y / m.x), "interval": _within(m)}
            for at, of in values.items()
            for a, m in of.items()
        ]
        for segment, values in compared.segments.items()
    }


def _within(m: Moments) -> list[float] | None:
    return _pair(*rate_interval(m))


def _aucs(bundles: Sequence[Path]) -> dict[tuple[str, str], float]:
    """AUC on test by model and version; `bundles` are bundles, or folders that hold some."""
    found: dict[tuple[str, str], float] = {}
    for folder in bundles:
        if not folder.is_dir():
            raise LogError(f"--bundle {folder} is no folder; a bundle or a folder of bundles is needed")
        inside = [path.parent for path in sorted(folder.rglob("manifest.json"))]
        for path in inside or [folder]:
            try:
                version, manifest = located(path)
                content = json.loads((version / REPORT).read_text())
                found[manifest["name"], manifest["version"]] = float(content["test"]["auc"])
            except BundleError as error:
                raise LogError(f"--bundle {error}") from None
            except (OSError, ValueError, KeyError, TypeError):
                continue  # a bundle without one is told by the arm's missing figure
    return found


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _pair(low: Any, high: Any) -> list[float] | None:
    return [float(low), float(high)] if np.isfinite(low) and np.isfinite(high) else None
