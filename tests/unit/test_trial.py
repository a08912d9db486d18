"""A bundle tried with a prepared data set: the request that is printed."""

from pathlib import Path

import polars as pl

from service.loading import trial


def test_the_example_is_of_items_shown_last_and_not_of_those_first_shown_last(tmp_path: Path) -> None:
    items = [1, 2, 3, 9, 1, 2, 3, 3]  # 9 appears late, once: training may not know it
    (tmp_path / "tables").mkdir()
    pl.DataFrame({"user_id": range(8), "item_id": items}).write_parquet(tmp_path / "tables" / "impressions.parquet")
    pl.DataFrame({"user_id": [1, 6]}).write_parquet(tmp_path / "tables" / "behaviours.parquet")
    assert trial.example(tmp_path, 3) == {"user_id": 6, "candidates": [1, 2, 3]}
