"""The report's dict → one HTML file: figures, tables and text, nothing to load from anywhere, light or dark."""

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from model.reproduction import plots

Report = Mapping[str, Any]
Entry = Mapping[str, Any]

NONE = "–"
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2024; --soft: #5c6670; --grid: #d5dae0; --line: #d5dae0;
  --warn: #8a4b00; --warn-paper: #fff3dd; --bad: #b3261e; --mark: #f1f4f7; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e4e8ec; --soft: #9aa5b1; --grid: #3a424b;
  --line: #333b44; --warn: #ffc46b; --warn-paper: #35290f; --bad: #ff8a80; --mark: #20252b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.2rem 1.4rem 4rem; max-width: 74rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .5rem; }
p { max-width: 52rem; margin: .5rem 0; }
.soft { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .75rem .32rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; line-height: 1.25; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td small { display: block; color: var(--soft); font-size: .78rem; line-height: 1.2; }
td.text { white-space: normal; }
tr.reference td { background: var(--mark); }
.bad { color: var(--bad); font-weight: 600; }
.warning { border-left: 4px solid var(--warn); background: var(--warn-paper); padding: .6rem 1rem; margin: 1rem 0; }
.warning strong { color: var(--warn); }
svg { display: block; width: 100%; max-width: 54rem; height: auto; margin: .8rem 0; color: var(--ink); }
svg text { font-family: inherit; }
details { margin: .5rem 0; } summary { cursor: pointer; }
pre { background: var(--mark); padding: .7rem 1rem; overflow-x: auto; font-size: .8rem; line-height: 1.4; }
"""


def html(report: Report) -> str:
    """The whole page."""
    progress = report["progress"]
    sections = [_head(report)]
    if progress["done"] < progress["planned"]:
        sections.append(
            f'<div class="warning"><strong>Not finished:</strong> {progress["done"]} of {progress["planned"]} runs are '
            "done. Figures will change, and networks are compared over unequal seeds.</div>"
        )
    if any("auc_mean" in entry for entry in report["networks"].values()):
        sections += [
            _networks(report),
            plots.auc_by_network(report),
            _against_peers(report),
            _order(report),
            _speed(report),
            _beside_the_papers(report),
            _ablations(report),
            _plots(report),
        ]
    sections += [_failed(report), _method(report)]
    title = f"The papers' networks on {escape(report['dataset'])}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(part for part in sections if part) + "\n</body></html>\n"
    )


def _head(report: Report) -> str:
    data = report["data"]
    rows, clicks = data["impressions"], data["test_clicks"]
    simulated = " The log is simulated; nobody's clicks are in it." if report["dataset"] == "simulated" else ""
    return (
        f"<h1>The papers' networks on {escape(report['dataset'])}</h1>"
        f'<p class="soft">{report["made"]} · {rows["train"]:,} impressions to train on, {rows["validation"]:,} to '
        f"validate, {rows['test']:,} to test, of {data['test_users']:,} users, {clicks:,} clicked "
        f"({clicks / rows['test']:.1%}).{simulated}</p>"
    )


def _networks(report: Report) -> str:
    shown = plots.compared(report["networks"])
    best = max((entry["auc_mean"] for entry in shown.values() if entry["kind"] == "main"), default=None)
    watched = any(entry.get("watch_correlation") is not None for entry in shown.values())
    head = ["network", "AUC ± SD", f"minus {report['reference'] or 'bst'}", "minus floor", "GAUC", "logloss"]
    head += ["calibration", *(["rank corr.<br>watch time", "calibration<br>watch time"] if watched else []), "seeds"]
    rows, classes = [], []
    for name, entry in shown.items():
        auc = f"{entry['auc_mean']:.4f}"
        auc = f"<strong>{auc}</strong>" if entry["auc_mean"] == best and entry["kind"] == "main" else auc
        spread = f" ± {entry['auc_sd']:.4f}" if entry["auc_sd"] is not None else ""
        floor = _difference(entry["to_floor"])
        cells = [
            escape(name) + (' <span class="bad">below the floor</span>' if entry["below_floor"] else ""),
            auc + spread + _range(*entry["ci95"]),
            "reference" if name == report["reference"] else _difference(entry["to_reference"]),
            f'<span class="bad">{floor}</span>' if entry["below_floor"] else floor,
            *(_number(entry.get(key)) for key in ("gauc", "logloss")),
            _number(entry.get("calibration"), ".3f"),
        ]
        if watched:
            cells += [_number(entry.get("watch_correlation")), _number(entry.get("watch_calibration"), ".3f")]
        rows.append([*cells, f"{len(entry['seeds'])}"])
        classes.append("reference" if name == report["reference"] else "")
    lines = [(f"floor, counted on {' and '.join(floor['trained_on'])}", floor) for floor in report["floors"]]
    lines += [("oracle: the true probabilities", report["oracle"])] if report["oracle"] else []
    for name, entry in lines:
        bare = [name, f"{entry['auc_mean']:.4f}" + _range(*entry["ci95"])]
        rows.append(bare + [""] * (len(head) - len(bare)))
        classes.append("")
    waiting = [n for n, e in report["networks"].items() if e["kind"] == "main" and "auc_mean" not in e]
    missing = f"<p>Without a result so far: {escape(', '.join(waiting))}.</p>" if waiting else ""
    return (
        "<h2>All networks, on test</h2>"
        + _table(head, rows, classes)
        + missing
        + "<p class='soft'>Mean over seeds, each trained from its own start; below it the 95 % interval. The "
        "interval comes from resampling the users of test and says how far a figure depends on who was in it; SD says "
        "how far it depends on the seed. A difference whose interval holds 0 shows nothing; below the floor is said of "
        "the mean. Calibration is expected ÷ observed clicks. The floor learns nothing: it adds up the smoothed click "
        "rates of item, user, category and "
        "context.</p>"
    )


def _against_peers(report: Report) -> str:
    rows = []
    for pair in report["against_peers"]:
        verdict = "ours is better" if pair["low"] > 0 else "theirs is better" if pair["high"] < 0 else "undecided"
        rows.append([escape(pair["ours"]), escape(pair["theirs"]), _difference(pair), verdict])
    head = ["ours", "*theirs", "ours minus theirs", "*found here"]
    text = "<p class='soft'>The same impressions to train on, to validate on and to test on; AUC, intervals paired.</p>"
    return "<h2>Beside other libraries</h2>" + text + _table(head, rows) if rows else ""


def _order(report: Report) -> str:
    if not report["order"]:
        return ""
    rows = []
    for pair in report["order"]:
        verdict = "as in the paper" if pair["low"] > 0 else "the other way round" if pair["high"] < 0 else "undecided"
        names = f"{escape(pair['worse'])} &lt; {escape(pair['better'])}"
        rows.append([names, _difference(pair), verdict])
    head = ["BST's order", "difference of AUC", "*found here"]
    return "<h2>The order of BST's Table 4</h2>" + _table(head, rows)


def _speed(report: Report) -> str:
    rows, classes = [], []
    response = {row["ours"]: row.get("response_ms") for row in report["papers"]["bst"].values() if row["ours"]}
    of_wdl = report["papers"]["bst"]["wdl"]["response_ms"]
    for name, entry in report["networks"].items():
        if entry["kind"] != "main" or "auc_mean" not in entry:
            continue
        ms, over = entry["score_ms"] or {}, entry["over_wdl"]
        printed = response.get(name)
        rows.append(
            [
                escape(name),
                f"{entry['parameters']:,}",
                f"{entry['rows_per_s']:,.0f}",
                *(_number(ms.get(count), ".2f") for count in ("100", "500")),
                *(_number(over.get(count), ".2f") for count in ("100", "500")),
                f"{printed / of_wdl:.2f}" if printed else NONE,
                f"{printed}" if printed else NONE,
            ]
        )
        classes.append("reference" if name == report["reference"] else "")
    head = ["network", "parameters", "training<br>rows/s", "scoring 100<br>ms", "scoring 500<br>ms", "100<br>÷ WDL"]
    head += ["500<br>÷ WDL", "paper's RT<br>÷ WDL", "paper's RT<br>ms"]
    return (
        "<h2>Size and speed</h2>"
        + _table(head, rows, classes)
        + "<p class='soft'>Scoring: median time of the exported graph alone for 100 and 500 candidates of one user, "
        "one thread, the networks taking turns on one machine. The paper's RT is the response time of a whole "
        "request at Taobao: only the ratios are comparable, and these only roughly.</p>"
    )


def _beside_the_papers(report: Report) -> str:
    def ours(name: str | None) -> Entry:
        entry: Entry = report["networks"].get(name, {}) if name else {}
        return entry if "auc_mean" in entry else {}

    bst = report["papers"]["bst"]
    rows = []
    for row in bst.values():
        entry = ours(row["ours"])
        apart = "reference" if entry and row["ours"] == report["reference"] else _difference(entry.get("to_reference"))
        printed = f"{row['auc'] - bst['bst']['auc']:+.4f}".replace("-", "−") if row is not bst["bst"] else "reference"
        rows.append([escape(row["title"]), f"{row['auc']:.4f}", printed, _number(entry.get("auc_mean")), apart])
    head = ["BST, Table 4", "paper<br>AUC", "paper<br>minus BST", "ours<br>AUC", "ours<br>minus BST"]
    first = _table(head, rows)
    rows = []
    for row in report["papers"]["atrank"].values():
        entry = ours(row["ours"])
        rows.append(
            [
                escape(row["title"]),
                f"{row['electronics']:.4f}",
                f"{row['clothing']:.4f}",
                _number(entry.get("auc_mean")),
            ]
        )
    head = ["ATRank's table", "paper AUC<br>Electronics", "paper AUC<br>Clothing", "ours<br>AUC"]
    return (
        "<h2>Beside the papers' tables</h2>"
        f"<p><strong>The papers' data are not these data.</strong> BST was measured on eight days of Taobao, 47.6 "
        'billion samples, which were never published; ATRank on Amazon\'s Electronics and Clothing. The columns "ours" '
        f"are measured on {escape(report['dataset'])}. Compare orders and signs, not figures.</p>"
        + first
        + _table(head, rows)
    )


def _ablations(report: Report) -> str:
    done = {name: entry for name, entry in report["networks"].items() if "auc_mean" in entry}
    switched = {name: entry for name, entry in done.items() if entry["kind"] == "ablation"}
    warned = {name: entry for name, entry in done.items() if entry["kind"] == "warning"}
    made = ""
    if switched:
        rows = [
            [
                escape(name),
                escape(entry["changes"]),
                f"{entry['auc_mean']:.4f}" + (f" ± {entry['auc_sd']:.4f}" if entry["auc_sd"] is not None else ""),
                _difference(entry["to_reference"]),
                _number((entry["score_ms"] or {}).get("500"), ".2f"),
            ]
            for name, entry in switched.items()
        ]
        head = ["variant", "*what is different", "AUC ± SD", f"minus {report['reference']}", "scoring 500<br>ms"]
        made = "<h2>One switch at a time</h2>" + _table(head, rows)
    for name, entry in warned.items():
        honest = report["networks"].get(report["reference"], {}).get("auc_mean")
        beside = f", where {escape(report['reference'])} honestly reaches {honest:.4f}" if honest is not None else ""
        made += (
            f'<div class="warning"><strong>Warning, no result:</strong> {escape(name)} picks its checkpoint on the '
            f"test impressions themselves and then shows {entry['auc_mean']:.4f} on them{beside}. This is what one "
            "would get by tuning on test; it says nothing of impressions to come and takes no part in any "
            "comparison.</div>"
        )
    return made


def _plots(report: Report) -> str:
    parts: list[tuple[str, Callable[[Report], str], str]] = [
        (
            "Training",
            plots.training_curves,
            "Looks at validation while training; the first seed strong, others faint. Losses are the mean since "
            "the look before; of another objective (BPR's pairs) they cannot be compared, and are left out.",
        ),
        (
            "Calibration",
            plots.calibration,
            "The impressions of test in tenths by score (first seed). On the line, a click rate is as expected.",
        ),
        (
            "AUC by history",
            plots.auc_by_history,
            "Impressions by how many behaviours came before; a network sees at most the newest of them, as many as its "
            "recipe says. Left out where there are fewer than 30 clicks, or fewer than 30 impressions without.",
        ),
        (
            "Attention by recency",
            plots.attention,
            "Mean weight that the candidate gives to a behaviour (first seed), over up to 2,000 test impressions with "
            "the longest histories, relative to a behaviour that counts like any other. DIN's weights are no shares, "
            "and can be negative.",
        ),
    ]
    made = [(title, draw(report), text) for title, draw, text in parts]
    return "\n".join(f"<h2>{title}</h2><p class='soft'>{text}</p>{plot}" for title, plot, text in made if plot)


def _failed(report: Report) -> str:
    rows = [
        [escape(name), escape(seed), escape(reason)]
        for name, entry in report["networks"].items()
        for seed, reason in entry["failed"].items()
    ]
    return "<h2>Runs that failed</h2>" + _table(["network", "seed", "*why"], rows) if rows else ""


def _method(report: Report) -> str:
    bootstrap, networks = report["bootstrap"], report["networks"]
    recipes = {name: entry["recipe"] for name, entry in networks.items() if "recipe" in entry}
    machines = {json.dumps([e["machine"], e["versions"]], sort_keys=True) for e in networks.values() if "machine" in e}
    differ = [name for name, entry in networks.items() if entry.get("recipes_differ")]
    common = report["with"].replace(":", ", ")
    remarks = f"<p>On top of every recipe: {escape(common)}.</p>" if common else ""
    if differ:
        remarks += f'<p class="bad">The seeds of {escape(", ".join(differ))} were trained by different recipes.</p>'
    if len(machines) > 1:
        remarks += "<p>The runs were made on different machines or with different versions; report.json has each.</p>"
    tested = {key: report[key] for key in ("machine", "versions")}
    return (
        "<h2>How this was made</h2>"
        "<p>Every network is trained on the training split by its recipe; the checkpoint is picked on validation. "
        "Where a recipe says refit, the network is then trained anew on training and validation, for as many epochs as "
        "were best. Test is opened once, by the exported model, which is what a service would load.</p>"
        f"<p>Intervals: {bootstrap['resamples']:,} resamples of the users of test, each drawn user with all its "
        "impressions; the same users for every network, so that differences are paired; the mean over seeds inside "
        f"each resample; {bootstrap['level']:.0%} of the resamples lie within.</p>"
        + remarks
        + _details("Machine and versions", tested)
        + _details("Data set", report["data"]["meta"] | {"fingerprint": report["data"]["fingerprint"]})
        + _details("Recipes: what differs from the defaults, and the whole of [training]", recipes)
    )


def _details(title: str, content: Any) -> str:
    return f"<details><summary>{title}</summary><pre>{escape(json.dumps(content, indent=1))}</pre></details>"


def _difference(found: Mapping[str, float] | None) -> str:
    return f"{found['mean']:+.4f}".replace("-", "−") + _range(found["low"], found["high"], "+") if found else NONE


def _range(low: float, high: float, sign: str = "") -> str:
    return f"<small>{low:{sign}.4f} … {high:{sign}.4f}</small>".replace("-", "−")


def _number(value: float | None, form: str = ".4f") -> str:
    return NONE if value is None else format(value, form)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """Cells are HTML. A heading that begins with * heads a column of text."""
    text = [title.startswith("*") for title in head]
    top = "".join(f"<th{_text(t)}>{title.removeprefix('*')}</th>" for t, title in zip(text, head, strict=True))
    made = [f"<tr>{top}</tr>"]
    for number, row in enumerate(rows):
        cells = "".join(f"<td{_text(t)}>{cell}</td>" for t, cell in zip(text, row, strict=True))
        made.append(
            f'<tr class="{classes[number]}">{cells}</tr>' if classes and classes[number] else f"<tr>{cells}</tr>"
        )
    return f'<div class="scroll"><table>{"".join(made)}</table></div>'


def _text(is_text: bool) -> str:
    return ' class="text"' if is_text else ""
