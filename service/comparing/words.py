"""What a report says in sentences: the verdict, what makes it doubtful, and what was left out."""

from collections.abc import Mapping
from typing import Any

from service.comparing.arms import when
from service.comparing.statistics import ENOUGH

SHARE = 0.05  # of users or impressions: above, what was left out can make a difference of its own

Report = Mapping[str, Any]

LEFT_OUT = {
    "late": "clicks later than {window_s:g} s after their impression (--window)",
    "early": "clicks before their impression",
    "orphaned": "clicks of a request that the log does not hold (dropped? never ranked?)",
    "not_returned": "clicks on items that their request did not return",
    "not_confirmed": "clicks on items that no impression event confirms",
    "without_request": "clicks without a request_id",
    "doubled": "more clicks on impressions that have one: counted once",
    "named": "impressions of requests that named their variant",
    "replayed": "impressions of requests that named their time (--replays counts them)",
}


def verdict(report: Report, doubtful: bool) -> str:
    """For who decides; one sentence for each arm that is compared to control."""
    if doubtful:
        return "Do not decide by these figures: the arms may differ in more than what they show, for the reasons below."
    if len(report["arms"]) == 1:
        return f"Only {report['control']} was shown, so nothing is compared; what shadows would earn is an estimate."
    return " ".join(_of_arm(arm, report["control"]) for arm in report["arms"] if arm["gain"])


def _of_arm(arm: Mapping[str, Any], control: str) -> str:
    name, gain = arm["name"], arm["gain"]
    if gain["interval"] is None:
        return (
            f"Too early to say whether {name} earns more clicks than {control}: {ENOUGH} users and {ENOUGH} clicks of "
            "each are needed."
        )
    low, high = gain["interval"]
    if gain["decided"]:
        more, far, near = ("more", high, low) if gain["decided"] > 0 else ("fewer", low, high)
        act = f"{name} is better" if gain["decided"] > 0 else f"{control} is better"
        return (
            f"{act}: what {name} shows earns {abs(gain['estimate']):.1%} {more} clicks than what {control} shows "
            f"(between {abs(near):.1%} and {abs(far):.1%} {more}), and you may stop here."
        )
    return (
        f"Not decided: what {name} shows earns between {_signed(low)} and {_signed(high)} clicks than what {control} "
        f"shows.{_needed(arm)}"
    )


def _signed(value: float) -> str:
    return f"{abs(value):.1%} {'more' if value >= 0 else 'fewer'}"


def _needed(arm: Mapping[str, Any]) -> str:
    needed = arm["gain"]["users_needed"]
    return (
        f" A true gain of 5 % is seen, in four cases of five, by {needed[0]:,} users of both together."
        if needed
        else ""
    )


def doubts(report: Report) -> list[str]:
    """Why the arms may differ in more than what they show; each ends the verdict."""
    counts, ratio, lines = report["counts"], report["sample_ratio"], []
    if not ratio["well"]:
        users = ", ".join(f"{arm['name']} {arm['users']:,}" for arm in report["arms"])
        due = ", ".join(f"{name} {share:.1%}" for name, share in ratio["shares"].items())
        named = "" if ratio["named"] else " (equal shares are assumed, --shares says others)"
        lines.append(
            f"Sample ratio mismatch: users are {users}, where shares of {due} were due{named}; p = {ratio['p']:.1g} at "
            "any number of looks. Whatever sends users to the arms, or the log, treats them differently."
        )
    if report["shares_changed"]:
        lines.append(report["shares_changed"])
    if counts["mixed_users"] > SHARE * counts["users"] or counts["mixed_impressions"] > SHARE * counts["live"]:
        lines.append(
            f"{counts['mixed_users']:,} of {counts['users']:,} users, with {counts['mixed_impressions']:,} of "
            f"{counts['live']:,} impressions, saw more than one arm: the balancer does not keep users apart, shares "
            "were changed, or a variant was taken out; and who comes often is among them. Leaving them out leaves a "
            "choice of users; counting them to the first (--mixed first) makes any gain look smaller."
        )
    if counts["apart"] > SHARE * counts["compared"]:
        lines.append(
            f"{counts['apart']:,} of {counts['compared']:,} impressions are of times when not all arms were shown: "
            "hours differ in clicks. --days names days that they share."
        )
    return lines


def left_out(report: Report) -> list[str]:
    """What is not in the figures, or in them with a reservation."""
    counts, lines = report["counts"], []
    if counts["mixed_users"] and report["mixed"] == "out":
        lines.append(
            f"{counts['mixed_users']:,} users who saw more than one arm, with {counts['mixed_impressions']:,} "
            f"impressions and {counts['mixed_clicks']:,} clicks (--mixed first counts them to the first arm seen)"
        )
    lines += [
        f"{counts[name]:,} {text.format(window_s=report['window_s'])}"
        for name, text in LEFT_OUT.items()
        if counts[name]
    ]
    if counts["mixed_users"] and report["mixed"] == "first":
        lines.append(
            f"Counted all the same: {counts['mixed_users']:,} users who saw more than one arm, to the first that they "
            "saw, with all that came later; gains look smaller for it"
        )
    if counts["open"]:
        lines.append(
            f"Counted all the same: {counts['open']:,} impressions of the log's last {report['window_s']:g} s, which "
            "may still be clicked; click rates look smaller for it, in all arms alike"
        )
    for arm in report["arms"]:
        if arm["degraded"]:
            lines.append(
                f"Counted all the same: {arm['degraded']:,} impressions of {arm['name']} that were ranked without the "
                "store's history"
            )
        if len(arm["models"]) > 1:
            lines.append(
                f"{arm['name']} is {len(arm['models'])} models: {', '.join(arm['models'])}; the offline AUC is the "
                "first's"
            )
        if arm["gain"] and arm["gain"]["was"] is not None:
            lines.append(
                f"{arm['name']} was decided otherwise at {when(arm['gain']['was'])}: the gain has changed with time"
            )
        if report["bundles_named"] and arm["offline_auc"] is None:
            lines.append(f"No offline AUC of {arm['name']}: no bundle of --bundle is {' or '.join(arm['models'])}")
    if not report["control_named"]:
        lines.append(f"Control is {report['control']}, which was shown first; --control names another")
    return lines
