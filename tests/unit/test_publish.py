"""What is told when a bundle takes the place of another one."""

from pathlib import Path

from model.graph.publish import other_log


def test_a_bundle_of_another_log_under_the_same_name_is_told(tmp_path: Path) -> None:
    hotel = ["item_id", "user_id", "stars", "price", "device"]
    assert other_log(tmp_path, hotel) == [], "there is none before"
    (tmp_path / "current").mkdir()
    rows = "".join(f'[[feature]]\nname = "{name}"\n' for name in hotel)
    (tmp_path / "current" / "features.toml").write_text(rows)
    assert other_log(tmp_path, hotel) == [] == other_log(tmp_path, [*hotel, "pool"]), (
        "the same log, and one column more"
    )
    (told,) = other_log(tmp_path, ["item_id", "user_id", "section", "device"])
    assert "of other columns (price, stars)" in told and "--name" in told
    (tmp_path / "current" / "features.toml").write_text("not toml")
    assert other_log(tmp_path, hotel) == []


def test_two_logs_without_columns_of_their_own_are_one_for_all_that_is_known(tmp_path: Path) -> None:
    (tmp_path / "current").mkdir()
    (tmp_path / "current" / "features.toml").write_text('[[feature]]\nname = "item_id"\n')
    assert other_log(tmp_path, ["item_id", "user_id"]) == []
