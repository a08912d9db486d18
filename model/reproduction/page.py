"""The report's dict → one HTML file: figures, tables and text, nothing to load from anywhere, light or dark."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from model.pages.render import render
from model.reproduction import plots

TEMPLATE = Path(__file__).with_name("report.html")


def sources(done: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Networks by the recipe that they were trained by."""
    by_source: dict[str, list[str]] = {}
    for name, entry in done.items():
        came_from = entry.get("recipe_from")
        if came_from:
            files = came_from if isinstance(came_from, list) else [f"settings that suit the log ({came_from})"]
            source = "; ".join([", ".join(files), *entry["recipe_reasons"]])
            by_source.setdefault(source, []).append(name)
    return by_source


def html(report: Mapping[str, Any]) -> str:
    """The whole page."""
    networks: Mapping[str, Mapping[str, Any]] = report["networks"]
    done = {name: entry for name, entry in networks.items() if "auc_mean" in entry}
    main = {name: entry["auc_mean"] for name, entry in done.items() if entry["kind"] == "main"}
    lines = [(f"floor, counted on {' and '.join(floor['trained_on'])}", floor) for floor in report["floors"]]
    lines += [(f"gradient boosting, on {' and '.join(own['trained_on'])}", own) for own in report["boosted"]]
    given = "gradient boosting given our match and statistic features, on"
    lines += [(f"{given} {' and '.join(own['trained_on'])}", own) for own in report["boosted_derived"]]
    lines += [(f"rule: {name.replace('_', ' ')}", rule) for name, rule in report["rules"].items()]
    lines += [("oracle: the true probabilities", report["oracle"])] if report["oracle"] else []
    return render(
        TEMPLATE,
        sources=sources(done),
        told=[(n, said) for n, e in done.items() if e["kind"] != "warning" for said in e.get("warnings", [])],
        report=report,
        done=done,
        shown=plots.compared(networks),
        best=[name for name, auc in main.items() if auc == max(main.values())],
        lines=lines,
        waiting=[name for name, entry in networks.items() if entry["kind"] == "main" and name not in done],
        response_ms={row["ours"]: row.get("response_ms") for row in report["papers"]["bst"].values() if row["ours"]},
        failed=[(name, seed, why) for name, entry in networks.items() for seed, why in entry["failed"].items()],
        differing=[name for name, entry in networks.items() if entry.get("recipes_differ")],
        machines=len(
            {json.dumps([e["machine"], e["versions"]], sort_keys=True) for e in networks.values() if "machine" in e}
        ),
        recipes={name: entry["recipe"] for name, entry in networks.items() if "recipe" in entry},
        json=partial(json.dumps, indent=1),
        plots=plots,
    )
