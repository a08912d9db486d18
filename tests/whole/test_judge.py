"""The judge in short: own counts are the log's, and what is acknowledged survives. In full: `python -m tests.judge`."""

from tests.judge import runs


def test_own_counts_and_scores_are_the_logs_through_swaps_of_bundle_and_catalogue() -> None:
    judged = runs.counted(80, rounds=2)
    assert not judged.broken, "\n".join(judged.broken)
    assert judged.figures["tries"] > 50 and judged.figures["joined"] > 50


def test_no_acknowledged_event_is_lost_where_workers_instances_and_the_store_are_killed() -> None:
    judged = runs.killed(120, rounds=2, kills=runs.KILLS[:3])
    assert not judged.broken, "\n".join(judged.broken)
    assert judged.figures["acknowledged"] > 100 and judged.figures["retried"]
