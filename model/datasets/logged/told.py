"""What whoever reads a result must know of a log: a sentence for each thing that was counted."""

from collections.abc import Mapping
from pathlib import Path

from model.datasets.tables import Options

LOST = {
    "doubled": "more clicks on impressions that have one: counted once",
    "late": "clicks later than {window_s:g} s after their impression (--window): in the history, no positives",
    "early": "clicks before their impression: in the history, no positives",
    "orphaned": "clicks of a request that the log does not hold (dropped? never ranked?): in the history, no positives",
    "not_returned": "clicks on items that their request did not return (beyond top_k?): in the history, no positives",
    "not_confirmed": "clicks on items that no impression event confirms: in the history, no positives",
    "without_request": "clicks without a request_id: in the history, no positives",
    "sent_again": "events that were sent more than once: counted once",
    "degraded": "requests that were ranked without the store's history: their items were shown and count, and training "
    "sees the history that there was",
    "replays": "requests that named their time: their items count as shown then",
    "explored": "impressions that were drawn to explore: they count as others do",
    "named_users": "requests that named features of their user: training sees the last known ones",
}


def notes(counts: Mapping[str, int], options: Options, base: Path | None) -> list[str]:
    """One for the joins, then what was lost, then the other data set."""
    of = "confirmed by an impression event" if options.shown == "confirmed" else "returned"
    lines = [
        f"{counts['impressions']} impressions ({of}) of {counts['requests']} requests; {counts['joined']} of "
        f"{counts['clicks']} clicks are joined"
    ]
    if options.shown == "confirmed":
        lines.append(
            f"{counts['returned'] - counts['impressions']} returned items that no impression event confirms: left out"
        )
    lines += [f"{counts[name]} {text.format(window_s=options.window_s)}" for name, text in LOST.items() if counts[name]]
    if base is None:
        lines.append("no --base: histories begin with what the store held at each user's first request in the log")
    elif not counts["users_of_base"]:
        lines.append(
            f"--base {base} knows none of the log's {counts['users']} users (are their ids salted, "
            "RANKER_JOURNAL_SALT?): its users and behaviours are left out"
        )
    else:
        lines.append(
            f"{counts['users_of_base']} of the log's {counts['users']} users are in --base {base}; its behaviours and "
            "items are there, its impressions are no samples"
        )
    return lines
