"""A report in a terminal: a table for people, a dict for scripts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def table(content: Mapping[str, Any]) -> str:
    """For people: a line a network."""
    row = "{:<32} {:>7} {:>7}  {:<16}  {:<27} {}"
    lines = [row.format("network", "AUC", "SD", "95 %", f"minus {content['reference'] or '-'}, 95 %", "").rstrip()]
    for name, entry in content["networks"].items():
        remarks = [f"seed {seed} failed: {reason}" for seed, reason in entry["failed"].items()]
        if "auc_mean" not in entry:
            lines.append(f"{name:<32} {'; '.join(remarks) or 'not run yet'}")
            continue
        opponents = {"the floor": "below_floor", "a rule": "below_rule", "gradient boosting": "below_boosted"}
        remarks = [f"below {name}" for name, below in opponents.items() if entry[below]][:1] + remarks
        remarks = ["WARNING: tuned on test, no result"] * (entry["kind"] == "warning") + remarks
        (low, high), to = entry["ci95"], entry["to_reference"]
        apart = f"{to['mean']:+.4f} {to['low']:+.4f}…{to['high']:+.4f}" if to else ""
        spread = f"{entry['auc_sd']:.4f}" if entry["auc_sd"] is not None else "-"
        cells = row.format(name, f"{entry['auc_mean']:.4f}", spread, f"{low:.4f}…{high:.4f}", apart, "; ".join(remarks))
        lines.append(cells.rstrip())
    lines += [f"{'floor':<32} {content['floor_auc']:.4f}"]
    for name, key in (("gradient boosting", "gbdt_auc"), ("the same, given our features", "gbdt_derived_auc")):
        lines += [f"{name:<32} {content[key]:.4f}"] if content[key] is not None else []
    lines += [f"{'rule: ' + name:<32} {rule['auc_mean']:.4f}" for name, rule in content["rules"].items()]
    lines += [f"{'oracle':<32} {content['oracle_auc']:.4f}"] if content["oracle_auc"] is not None else []
    return "\n".join(lines)


def delays_table(every: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], delays_s: Sequence[float]) -> str:
    """For people: the mean AUC over seeds, a line a network and a column a delay."""
    lines = [f"{'AUC by delay':<32}" + "".join(f"{f'{delay_s:g} s':>10}" for delay_s in delays_s)]
    for label, seeds in every.items():
        aucs = np.array([[row["auc"] for row in figures] for figures in seeds.values()])
        lines.append(f"{label:<32}" + "".join(f"{auc:>10.4f}" for auc in aucs.mean(0)))
    return "\n".join(lines)


def summary(content: Mapping[str, Any], report: Path) -> dict[str, Any]:
    """For scripts: the last line of stdout."""
    networks = {name: entry for name, entry in content["networks"].items() if "auc_mean" in entry}
    results = {name: entry for name, entry in networks.items() if entry["kind"] != "warning"}
    keys = (
        "auc_mean",
        "auc_sd",
        "ci95",
        "auc_without_repeats",
        "below_floor",
        "below_rule",
        "below_boosted",
        "recipe_from",
    )
    return {
        "report": str(report),
        "networks": {name: {key: entry.get(key) for key in keys} for name, entry in results.items()},
        "differences": {
            name: {"to": content["reference"], **entry["to_reference"]}
            for name, entry in results.items()
            if entry["to_reference"]
        },
        "order": content["order"],
        "chosen": content["chosen"],
        "against_peers": content["against_peers"],
        "floor_auc": content["floor_auc"],
        "gbdt_auc": content["gbdt_auc"],
        "gbdt_derived_auc": content["gbdt_derived_auc"],
        "rules": {name: rule["auc_mean"] for name, rule in content["rules"].items()},
        "gauc_coverage": content["data"]["gauc_coverage"],
        "test_opened": content["data"]["test_opened"],
        "oracle_auc": content["oracle_auc"],
        "failed": {name: entry["failed"] for name, entry in content["networks"].items() if entry["failed"]},
        "tuned_on_test": {name: entry["auc_mean"] for name, entry in networks.items() if entry["kind"] == "warning"},
    }
