"""What prepare tells: whether the log is what its owner thinks it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model.prepared.entities import PrepareError
from model.prepared.numbered import Log
from model.prepared.slices import Seen
from model.prepared.splits import SPLITS

QUANTILES = (0.1, 0.5, 0.9)
MOST = 8  # names that one line lists

Acted = Sequence[tuple[str, str, int]]  # object type, action, behaviours


def refuse_other_actions(log: Log) -> dict[str, Any]:
    """Actions and object types: those that features.toml names, and those that the log holds.

    Raises PrepareError where [history] or a [[group]] names what no behaviour is, so that it would always be empty.
    """
    acted = log.acted()
    there = {(kind, action) for kind, action, _ in acted}
    named = {(group.object_type, action) for group in log.groups for action in group.actions}
    for group in log.groups if acted else ():
        if not any((group.object_type, action) in there for action in group.actions):
            where = "[history]" if group is log.schema.history else f"[[group]] {group.object_type!r}"
            raise PrepareError(
                f"{where} of features.toml names object_type {group.object_type!r} with actions "
                f"{', '.join(map(repr, group.actions))}, and none of the behaviours is one; the log holds "
                f"{_list(acted)}: name one of these in features.toml"
            )
    return {
        "read": [row for row in acted if row[:2] in named],
        "not_read": [row for row in acted if row[:2] not in named],
        "absent": sorted(named - there) if acted else [],
    }


def _list(acted: Acted) -> str:
    shown = [f"object_type {kind!r} with action {action!r} ({count})" for kind, action, count in acted[:MOST]]
    return ", ".join(shown + ([f"and {len(acted) - MOST} more"] if len(acted) > MOST else []))


def summarised(seen: Seen, actions: dict[str, Any], unused: dict[str, list[str]]) -> dict[str, Any]:
    """For meta.json: by split click rate, histories and unknown values; what of the tables is not used."""
    by_split: dict[str, Any] = {}
    for code, name in enumerate(SPLITS):
        rows = int(seen.rows[code])
        if not rows:
            continue
        by_split[name] = {
            "impressions": rows,
            "click_rate": int(seen.clicks[code]) / rows,
            "with_history": 1 - int(seen.lengths[code][0]) / rows,
            "history_lengths": [_quantile(seen.lengths[code], share) for share in QUANTILES],
        }
        by_split[name]["missing"] = {f: int(count[code]) / rows for f, count in seen.missing.items()}
        if code:
            by_split[name]["unknown"] = {f: int(count[code]) / rows for f, count in seen.unknown.items()}
    return {"splits": by_split, "behaviours": actions, "unused_columns": unused}


def _quantile(counts: npt.NDArray[np.int64], share: float) -> int:
    """The smallest length that this share of the impressions does not exceed."""
    return int(np.searchsorted(np.cumsum(counts), share * counts.sum()))


def lines(meta: dict[str, Any], length: int) -> list[str]:
    """The summary for people; `length` is the schema's history length."""
    splits = meta["summary"]["splits"]
    low, middle, high = (f"p{share * 100:.0f}" for share in QUANTILES)
    text = [
        f"{sum(meta['impressions'].values())} impressions, {meta['behaviours']} behaviours, {meta['users']} users, "
        f"{meta['items']} items",
        "",
        f"{'split':11}{'impressions':>12}  {'click rate':>10}  {'with history':>12}  length "
        f"({low}/{middle}/{high}, at most {length})",
    ]
    for name, facts in splits.items():
        between = meta["split"][name] if isinstance(meta["split"], dict) else []
        lengths = "/".join(map(str, facts["history_lengths"]))
        text.append(
            f"{name:11}{facts['impressions']:12}  {facts['click_rate']:10.4f}  {facts['with_history']:12.1%}  "
            f"{lengths:12}{' to '.join(between)}".rstrip()
        )
    if meta["delay_s"]:
        text += ["", f"histories lack what happened in the last {meta['delay_s']:g} s before an impression (--delay)"]
    unknown = {name: facts["unknown"] for name, facts in splits.items() if facts.get("unknown")}
    if unknown:
        text += ["", "unknown to training (share of impressions)"]
        for feature in next(iter(unknown.values())):
            shares = ", ".join(f"{name} {of[feature]:.1%}" for name, of in unknown.items())
            text.append(f"  {feature}: {shares}")
    return text


def warnings(meta: dict[str, Any]) -> list[str]:
    """What is worth a second look, a sentence each."""
    summary = meta["summary"]
    splits, actions = summary["splits"], summary["behaviours"]
    told = []
    for table, columns in summary["unused_columns"].items():
        told.append(f"{table}: not used, since features.toml does not name them: {', '.join(columns)}")
    for column, count in summary.get("list_holes", {}).items():
        told.append(f"{column}: {count} elements of lists hold nothing and were left out")
    for table, shares in summary.get("unlisted", {}).items():
        of = " and ".join(f"{share:.1%} of the {source}" for source, share in shares.items())
        told.append(f"{table}: {of} name {table} that are not in this table: all their features are missing there")
    if actions["absent"]:
        named = ", ".join(f"action {action!r} on {kind!r}" for kind, action in actions["absent"])
        told.append(f"features.toml names {named}, which no behaviour is")
    if actions["not_read"]:
        told.append(
            f"behaviours that no history holds, since features.toml does not name them: {_list(actions['not_read'])}"
        )
    if not meta["behaviours"]:
        told.append(
            "there are no behaviours: every history is empty, and networks that read histories cannot be trained"
        )
    elif not any(facts["with_history"] for facts in splits.values()):
        told.append(
            "every history is empty: no behaviour lies before an impression of its user; "
            "are user_id and timestamp of both tables of one kind?"
        )
    for name in SPLITS:
        facts = splits.get(name)
        if facts is None:
            told.append(f"{name} holds no impressions")
        elif facts["click_rate"] in (0, 1):
            told.append(f"{name}: all labels are {facts['click_rate']:.0f}, so that no AUC can be measured on it")
    return told
