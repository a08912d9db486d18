"""Files and folders are written beside their place and renamed into it."""

import os
import shutil
from pathlib import Path

import pytest

from model import files
from model.files import beside, partial_prefix, replacing, write_json

DEAD = 99_999_999  # above every system's highest process id


def test_a_file_keeps_its_old_content_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old" and partial.parent == tmp_path and partial.suffix == ".json"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["report.json"]


def test_a_folder_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with replacing(tmp_path / "data") as partial:
            partial.mkdir()
            (partial / name).touch()
    assert os.listdir(tmp_path) == ["data"] and os.listdir(tmp_path / "data") == ["second"]


def test_a_symlink_is_replaced_and_not_what_it_points_to(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with replacing(tmp_path / "current") as link:
            link.symlink_to(name)
    assert (tmp_path / "current").resolve().name == "two" and (tmp_path / "one").is_dir()


@pytest.mark.parametrize("durable", [False, True])
def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "items.npy"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path, durable) as partial:
        partial.write_text("half")
        raise KeyError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["items.npy"]


def test_what_nobody_renames_is_removed(tmp_path: Path) -> None:
    with beside(tmp_path / "model.onnx") as candidate:
        candidate.touch()
    assert not os.listdir(tmp_path)


def test_what_a_kill_left_goes_and_what_another_process_writes_stays(tmp_path: Path) -> None:
    prefix = partial_prefix("data.json")
    for name in (f"{prefix}{DEAD}.json", f"{prefix}{os.getppid()}.json", f"{prefix}v2-{DEAD}.json"):
        (tmp_path / name).touch()
    (tmp_path / f"{partial_prefix('data')}{DEAD}").mkdir()
    write_json(tmp_path / "data.json", {"a": [1]})
    assert (tmp_path / "data.json").read_text() == '{\n "a": [\n  1\n ]\n}\n'
    assert not (tmp_path / f"{prefix}{DEAD}.json").exists() and len(os.listdir(tmp_path)) == 4


def test_a_file_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "kept").touch()
    with pytest.raises(IsADirectoryError, match="work"):
        write_json(tmp_path / "work", {})
    assert [path.name for path in tmp_path.rglob("*")] == ["work", "kept"]


def test_a_folder_that_is_not_there_is_named_and_not_the_file_that_would_be_renamed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as refused:
        write_json(tmp_path / "none" / "data.json", {})
    assert refused.value.filename == str(tmp_path / "none")


def test_a_folder_is_exchanged_in_one_step_so_that_a_kill_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, removed = tmp_path / "data", []
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    if not files._exchanged(tmp_path / "old", tmp_path / "new"):
        pytest.skip("this file system cannot exchange two folders in one step")
    remove = shutil.rmtree

    def looked_at(folder: Path, *args: object) -> None:
        removed.append((folder.name, (folder / "a").read_text(), (path / "a").read_text()))
        remove(folder)

    monkeypatch.setattr("model.files.shutil.rmtree", looked_at)
    for text in ("one", "two"):
        with replacing(path) as partial:
            partial.mkdir()
            (partial / "a").write_text(text)
    [(name, *texts)] = removed
    assert name.startswith(partial_prefix("data")) and texts == ["one", "two"]


def test_where_folders_cannot_be_exchanged_the_old_one_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.files._exchanged", lambda one, other: False)
    for text in ("one", "two"):
        with replacing(tmp_path / "data") as partial:
            partial.mkdir()
            (partial / "a").write_text(text)
    assert (tmp_path / "data" / "a").read_text() == "two" and len([*tmp_path.iterdir()]) == 1
