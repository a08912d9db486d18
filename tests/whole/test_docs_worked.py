"""The examples that a newcomer copies are run as they stand, and say what they show."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.worked import ROOT, Shell, blocks, section


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with ExitStack() as stack:
        yield Shell(tmp_path, stack)


def assert_answers(answer: str, shown: str, scatter: float = 0.02) -> None:
    """The same keys, the same order of items and the same scores, by what a processor may differ in."""
    real: dict[str, Any] = json.loads(answer)
    page: dict[str, Any] = json.loads(shown)
    assert list(real) == list(page) and list(real["timings_ms"]) == list(page["timings_ms"])
    assert [item["item_id"] for item in real["items"]] == [item["item_id"] for item in page["items"]]
    scores = [item["score"] for item in page["items"]]
    assert [item["score"] for item in real["items"]] == pytest.approx(scores, abs=scatter)
    for key in ("model", "variant", "history_length", "unknown_items", "new_user", "degraded"):
        assert real[key] == page[key], key


def test_the_readmes_curl_line_is_answered_as_it_shows(shell: Shell) -> None:
    made = blocks(section((ROOT / "README.md").read_text(), "Try it"))
    start, curl, answer = made
    assert start.text.startswith("make run")
    shell.run("python -m service")  # what `make run` runs, in an environment that is there
    assert_answers(shell.run(curl.text), answer.text)


def test_the_explained_example_is_answered_as_the_page_of_the_api_shows(shell: Shell) -> None:
    curl, shown = blocks(section((ROOT / "docs" / "api.md").read_text(), "Why a score"))
    shell.run("python -m service")
    answer = shell.run(curl.text)
    assert_answers(answer, shown.text)
    real, page = json.loads(answer), json.loads(shown.text)
    for behaviour in (*real["explanation"]["behaviours"], *page["explanation"]["behaviours"]):
        assert behaviour.pop("age_s") > 0
    assert real["explanation"] == page["explanation"]
    for one, other in zip(real["items"], page["items"], strict=True):
        told, expected = one["explanation"], other["explanation"]
        assert list(told) == list(expected)
        assert {key: told[key] for key in ("unknown", "missing")} == {
            key: expected[key] for key in ("unknown", "missing")
        }
        for key in ("score", "score_without_history", "attention", "attention_target"):
            assert told[key] == pytest.approx(expected[key], abs=0.02), key


def test_the_worked_example_goes_from_zero_to_a_served_model(shell: Shell, tmp_path: Path) -> None:
    output = ""
    for block in blocks(section((ROOT / "docs" / "data.md").read_text(), "From zero to a served model")):
        if block.name:
            (tmp_path / block.name).parent.mkdir(exist_ok=True)
            (tmp_path / block.name).write_text(block.text)
        elif block.language == "sh":
            output = shell.run(block.text)
        elif block.language == "toml":  # of the drafted file
            assert block.text in (tmp_path / "my-tables" / "features.toml").read_text()
        elif block.language == "text":  # what the command before prints: figures of a model, and all else as it stands
            for line in block.text.splitlines():
                if figure := re.fullmatch(r"(\w+) +([\d.]+)", line):
                    (real,) = re.findall(rf"^{figure[1]} +([\d.]+)$", output, re.MULTILINE)
                    assert float(real) == pytest.approx(float(figure[2]), abs=0.03), line
                else:
                    assert line in output.splitlines(), line
        else:
            assert block.language == "json"
            assert_answers(output, block.text, scatter=0.05)  # its model was trained here
    assert '"book-new"' in output


def test_the_readmes_five_commands_are_those_of_the_worked_example() -> None:
    worked = section((ROOT / "docs" / "data.md").read_text(), "From zero to a served model")
    readme = section((ROOT / "README.md").read_text(), "Your own data, in five commands")
    five = [line.partition("  #")[0].rstrip() for line in readme.splitlines() if line.startswith(("python -m", "make"))]
    assert len(five) == 5
    for line in five:
        assert line in worked, line
