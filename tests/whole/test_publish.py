"""`python -m service.publish`: what it lets in, what it keeps out, and that nothing is half-written."""

import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from model.bundle import versions
from model.bundle.reading import Bundle
from model.bundle.writing import amend
from service.publish import main
from service.settings import DEMO_BUNDLE
from tests.client import serving
from tests.processes import wait_until
from tests.verbs import refusal
from tests.versions import FIRST, SECOND, THIRD, golden_off, spoil, three, version

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def home(small_bundle: Bundle, tmp_path: Path) -> Path:
    return three(small_bundle, tmp_path / "home")


@pytest.fixture
def packed(small_bundle: Bundle, tmp_path: Path) -> Path:
    """An archive of a fourth version."""
    folder = version(small_bundle, tmp_path / "made", "20260104T000000-d", 1.1)
    with tarfile.open(tmp_path / "d.tar.gz", "w:gz") as archive:
        archive.add(folder, "d")
    return tmp_path / "d.tar.gz"


def published(capsys: Capture, *arguments: object) -> Any:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


def refused(capsys: Capture, code: int, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1 and not out, err + out
    return err


def names(home: Path) -> set[str]:
    return {path.name for path in home.iterdir()}


def test_an_archive_becomes_current_and_rollback_goes_back(home: Path, packed: Path, capsys: Capture) -> None:
    told = published(capsys, packed, "--to", home)
    assert told["installed"] and told["version"] == versions.current(home) == "20260104T000000-d"
    assert told["previous"] == versions.previous(home) == FIRST
    again = published(capsys, packed, "--to", home)
    assert not again["installed"] and versions.previous(home) == FIRST, "what is there already changes nothing"
    back = published(capsys, "--rollback", "--to", home)
    assert (back["version"], versions.current(home), versions.previous(home)) == (FIRST, FIRST, told["version"])
    assert names(home) == {FIRST, SECOND, THIRD, told["version"], "current", "previous"}


def test_a_version_that_stands_in_its_home_needs_no_copy(home: Path, capsys: Capture) -> None:
    told = published(capsys, home / SECOND)
    assert not told["installed"] and versions.current(home) == SECOND


@pytest.mark.parametrize("fault", [spoil, golden_off], ids=lambda fault: fault.__name__)
def test_a_bundle_that_is_not_what_it_was_changes_nothing(
    home: Path, tmp_path: Path, fault: Any, capsys: Capture
) -> None:
    folder = Path(shutil.copytree(home / SECOND, tmp_path / "other"))
    shutil.rmtree(home / SECOND)
    before = names(home)
    fault(folder)
    why = refused(capsys, 1, folder, "--to", home)
    assert str(folder) in why and names(home) == before and versions.current(home) == FIRST


@pytest.mark.parametrize(
    ("gates", "says"),
    [
        (["--gate", "auc>=0.99"], "auc>=0.99 is asked, and its report says 0."),
        (["--gate", "auc>=0.1", "--gate", "speed>1"], "no such figure; it has .*auc"),
        ([], "its training did not publish it"),
    ],
)
def test_a_gate_keeps_a_bundle_out(home: Path, gates: list[str], says: str, capsys: Capture) -> None:
    if not gates:
        report = json.loads((home / SECOND / "report.json").read_text()) | {"published": False}
        bundle = Bundle.open(home / SECOND)
        amend(bundle, {"report.json": report}, {}, [])
    assert re.search(says, refused(capsys, 3, home / SECOND, *gates))
    assert versions.current(home) == FIRST
    if not gates:
        published(capsys, home / SECOND, "--publish-anyway")


def test_keep_spares_what_is_linked_and_what_a_service_answers_with(home: Path, packed: Path, capsys: Capture) -> None:
    with versions.holding(home / FIRST):
        published(capsys, home / SECOND)
        told = published(capsys, packed, "--to", home, "--keep", 1)
        assert told["pruned"] == [THIRD], "the first is served, the second is previous, the fourth is current"
    assert published(capsys, packed, "--to", home, "--keep", 1)["pruned"] == [FIRST]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "either BUNDLE or --rollback"),
        (["b", "--rollback"], "either BUNDLE or --rollback"),
        (["b", "--sha256", "12"], "64 hexadecimal digits"),
        (["b", "--gate", "auc"], "FIGURE>=NUMBER"),
        (["b", "--keep", "0"], "at least 1"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(arguments: list[str], says: str, capsys: Capture) -> None:
    assert says in refusal(capsys, main, arguments)


def test_what_is_missing_is_one_clear_line(home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--to HOME" in refused(capsys, 1, "d.tar")
    assert "is not there" in refused(capsys, 1, home / "none.tar", "--to", home)
    assert "needs its sha256" in refused(capsys, 1, "http://127.0.0.1:1/b.tar", "--to", home)
    assert "is a bundle itself" in refused(capsys, 1, home / SECOND, "--to", home / FIRST)
    assert "no version to go back to" in refused(capsys, 1, "--rollback", "--to", home)
    assert "--to HOME" in refused(capsys, 1, DEMO_BUNDLE), "it stands in no home, and least of all is the package one"
    assert versions.current(home) == FIRST


def test_it_waits_until_the_service_has_it_and_says_where_it_was_refused(home: Path, capsys: Capture) -> None:
    with serving(bundle=str(home), workers="2", bundle_poll_s="0.1", history_keep="100") as service:
        told = published(capsys, home / SECOND, "--url", service.url)
        assert (told["live"], told["workers"]) == (True, 2)
        golden_off(home / THIRD)
        (home / "next").symlink_to(THIRD)
        (home / "next").rename(home / "current")
        wait_until(lambda: "golden request 0" in service.output, service)
        code = main([str(home / SECOND), "--url", service.url])
        assert code == 0 and versions.current(home) == SECOND
