"""The report's dict → one HTML file: budgets, figures and plots, nothing to load from anywhere, light or dark."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from loadtest.verdict import compare, plots
from loadtest.verdict.report import MOST_LATE

Report = Mapping[str, Any]

NONE = "–"
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2024; --soft: #5c6670; --grid: #d5dae0; --good: #1a7f4b;
  --bad: #b3261e; --mark: #f1f4f7; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e4e8ec; --soft: #9aa5b1; --grid: #3a424b;
  --good: #5cc98f; --bad: #ff8a80; --mark: #20252b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.2rem 1.4rem 4rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .4rem; padding-top: .8rem; border-top: 1px solid var(--grid); }
h3 { font-size: 1rem; margin: 1.6rem 0 .2rem; }
p { max-width: 52rem; margin: .5rem 0; }
.soft { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem 1rem .32rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--grid); }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
svg { display: block; width: 100%; max-width: 54rem; height: auto; margin: .6rem 0; color: var(--ink); }
svg text { font-family: inherit; }
"""


def html(report: Report, old: Report | None) -> str:
    """The whole page; `old` is an earlier report to compare with."""
    changes = compare.changes(old, report) if old else {}
    parts = [_summary(report), *(_scenario(report, one, changes, old) for one in report["scenarios"])]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Load test</title>'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join([*parts, _environment(report)]) + "\n</body></html>\n"
    )


def _summary(report: Report) -> str:
    scenarios = report["scenarios"]
    passed = sum(one["passed"] for one in scenarios)
    kind = "good" if passed == len(scenarios) else "bad"
    head = ["scenario", "requests/s", "requests", "p50 ms", "p99 ms", "p99.9 ms", "errors", "sent late", "verdict"]
    rows = [
        [
            escape(one["scenario"]),
            f"{one['rate']:.1f}",
            f"{one['requests']:,}",
            *(f"{one[key]:.2f}" for key in ("p50_ms", "p99_ms", "p999_ms")),
            _share(one["errors"] / one["requests"]),
            _share(one["late_share"]),
            _verdict(one),
        ]
        for one in scenarios
    ]
    return (
        f'<h1>Load test: <span class="{kind}">{passed} of {len(scenarios)} within budget</span></h1>'
        '<p class="soft">Requests left by a plan made beforehand, whether or not earlier ones were answered. Times '
        "count from the moment a request was due, so that waiting behind a stalled service shows; service times count "
        "from when it left. The warm-up is in no figure.</p>" + _table(head, rows)
    )


def _scenario(report: Report, one: Report, changes: Mapping[str, Sequence[compare.Change]], old: Report | None) -> str:
    name = one["scenario"]
    course = report["courses"][name]
    earlier = _course(old, name)
    parts = [f"<h2>{escape(name)}</h2>", _arrivals(one), _budgets(one)]
    if found := report.get("search", {}).get(name):
        parts.append(_search(found, one))
    if name in changes:
        parts.append(_changes(changes[name], compare.other_load(old or {}, one)))
    elif old:
        parts.append('<p class="soft">The earlier report has no such scenario.</p>')
    parts += ["<h3>Response time by percentile</h3>", plots.percentiles(one, course, earlier)]
    parts += ["<h3>Over time</h3>", plots.over_time(one, course)]
    if drawn := plots.stages(one):
        parts += ["<h3>By stage, as the service tells it</h3>", drawn]
    if one["faults"]:
        rows = [[escape(what), f"{count:,}"] for what, count in one["faults"].items()]
        parts += ["<h3>What went wrong</h3>", _table(["fault", "requests"], rows)]
    return "\n".join(parts)


def _arrivals(one: Report) -> str:
    latest = "one never left" if one["latest_ms"] is None else f"the latest send {one['latest_ms']:.2f} ms late"
    shape = escape(one["arrivals"].capitalize())
    return (
        f'<p class="soft">{shape} arrivals, {one["planned_rate"]:.1f} requests/s planned, '
        f"{one['rate']:.1f} sent; {latest}; {one['throughput']:.1f} right answers/s, {one['goodput']:.1f} of them "
        "within the p99 budget.</p>"
    )


def _budgets(one: Report) -> str:
    errors = one["errors"] / one["requests"]
    rows = [
        _budget("p50", f"{one['p50_ms']:.2f} ms", f"{one['budget']['p50_ms']:g} ms", one["p50_ms"], "p50_ms", one),
        _budget("p99", f"{one['p99_ms']:.2f} ms", f"{one['budget']['p99_ms']:g} ms", one["p99_ms"], "p99_ms", one),
        _budget("errors", _share(errors), _share(one["budget"]["errors"]), errors, "errors", one),
    ]
    good = _mark(one["good"], "pass", "no good")
    rows.append(["sent late", _share(one["late_share"]), _share(MOST_LATE), good])
    return _table(["budget", "measured", "at most", "verdict"], rows)


def _budget(name: str, measured: str, most: str, value: float, key: str, one: Report) -> list[str]:
    return [name, measured, most, _mark(value <= one["budget"][key], "pass", "fail")]


def _search(found: Report, one: Report) -> str:
    if not found["rate"]:
        return '<p class="bad">No rate that was tried holds the budget.</p>'
    bound = {
        "service": "",
        "generator": " Above it the generator lagged, not the service: the service may do more.",
        "nothing": " More than that one window may not send.",
    }
    return (
        f"<p><strong>{found['rate']:.1f} requests/s</strong> is the highest rate found that holds the budget; "
        f"confirmed anew at {found['confirmed_rate']:.1f}, whose middle window is shown here."
        f"{bound[found['limited_by']]}</p><h3>Up to twice that rate</h3>{plots.curve(found, one['budget']['p99_ms'])}"
        '<p class="soft">The upright line is the rate found, the slanted one what was offered. Hollow: the generator '
        "could not send on time.</p>"
    )


def _changes(changes: Sequence[compare.Change], other_load: str) -> str:
    rows = []
    for change in changes:
        percent = NONE if change.percent is None else f"{change.percent:+.1f} %".replace("-", "−")
        shown = percent if change.better is None else _mark(change.better, percent, percent)
        name = escape(change.figure.replace("_", " ").replace("p999", "p99.9").removesuffix(" ms")) + (
            " ms" * change.figure.endswith("_ms")
        )
        rows.append([name, *(f"{value:.2f}".removesuffix(".00") for value in (change.before, change.now)), shown])
    remark = f'<p class="bad">{escape(other_load.capitalize())}.</p>' if other_load else ""
    return "<h3>Beside the earlier run</h3>" + remark + _table(["figure", "before", "now", "change"], rows)


def _environment(report: Report) -> str:
    rows = []
    for group, told in report["environment"].items():
        rows += [[f"{escape(group)}: {escape(str(what))}", escape(str(value))] for what, value in told.items()]
    rows.append(["seed", str(report["seed"])])
    return "<h2>Machine and versions</h2>" + _table(["what", "value"], rows)


def _course(old: Report | None, name: str) -> Report | None:
    """The earlier report's plot, where it has one as ours are."""
    courses = old.get("courses") if old else None
    found = courses.get(name) if isinstance(courses, dict) else None
    return found if isinstance(found, dict) and {"shares", "due_ms"} <= found.keys() else None


def _verdict(one: Report) -> str:
    return _mark(one["passed"], "pass", "fail" if one["good"] else "no good")


def _mark(good: bool, yes: str, no: str) -> str:
    return f'<span class="{"good" if good else "bad"}">{yes if good else no}</span>'


def _share(value: float) -> str:
    return f"{value * 100:.3g} %"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML."""
    made = ["<tr>" + "".join(f"<th>{title}</th>" for title in head) + "</tr>"]
    made += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return f'<div class="scroll"><table>{"".join(made)}</table></div>'
