"""What `--engine spark` asks for before a log is read, told in a line where it is lacking; no Spark is needed here."""

import builtins
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.prepare import main
from model.spark import SparkError, first_line, require
from tests.worked import free_port


@pytest.mark.parametrize("master", ["foo", "local2", "localhost:7077", "sc://127.0.0.1", "yarn-cluster", "mesos://h:1"])
def test_a_master_of_no_known_form_is_refused(master: str, tmp_path: Path) -> None:
    allowed = r"local\[N\], spark://HOST:PORT, yarn, k8s://URL"
    with pytest.raises(SparkError, match=f"^--master {re.escape(repr(master))} given, allowed: {allowed}$"):
        require(master, tmp_path)


def test_a_master_that_does_not_answer_is_refused_and_no_log_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, out = f"127.0.0.1:{free_port()}", tmp_path / "data"
    log = ["--dataset", "simulated", "--impressions", "1000000000", "--out", str(out)]
    assert main([*log, "--engine", "spark", "--master", f"spark://{place}"]) == 1
    told = capsys.readouterr().err
    assert told == f"prepare: --master spark://{place}: no master answers at {place}: Connection refused\n"
    assert not out.exists()
    with pytest.raises(SparkError, match="'127.0.0.1' is no HOST:PORT"):
        require("spark://127.0.0.1", tmp_path)


def test_names_that_spark_would_take_for_patterns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SparkError, match=r"^--out has \* \[ \] in its path, which Spark takes for patterns of names$"):
        require("local[2]", tmp_path / "data[*]")


def test_java_and_pyspark_that_are_not_there_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(SparkError, match=f"needs Java 17 or newer, and JAVA_HOME is {tmp_path}, which has no bin/java"):
        require(None, tmp_path)
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SparkError, match="needs Java 17 or newer, and there is no java on PATH"):
        require(None, tmp_path)
    (tmp_path / "java").touch(mode=0o755)
    monkeypatch.setattr(builtins, "__import__", _without("pyspark", "pyarrow", "pandas"))
    with pytest.raises(SparkError, match=r"No module named .*; pip install 'bst-ranker\[spark\]' brings it$"):
        require(None, tmp_path)


def _without(*names: str) -> Callable[..., Any]:
    usual = builtins.__import__

    def imported(name: str, *more: Any) -> Any:
        if name in names:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return usual(name, *more)

    return imported


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--master", "local[2]"], "--master local[2] given, which --engine spark alone has"),
        (["--engine", "spark", "--processes", "2"], "--processes given, of which --engine spark has as many as its"),
        (["--engine", "flink"], "invalid choice: 'flink' (choose from"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--dataset", "simulated", "--out", str(tmp_path / "data"), *arguments])
    assert end.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, line",
    [
        ("[PATH_NOT_FOUND] Path does not exist: file:/x. SQLSTATE: 42K03", None),
        (
            "An error occurred while calling o1.parquet.\n: org.apache.spark.SparkException: Job aborted.\n"
            "\tat org.apache.spark.X(X.scala:1)\nCaused by: java.io.IOException: No space left on device\n\tat java.Y",
            "Job aborted: No space left on device",
        ),
        (
            "\n  An exception was thrown from the Python worker. Please see the stack trace below.\n"
            'Traceback (most recent call last):\n  File "w.py", line 1, in main\n    f()\n'
            "ModuleNotFoundError: No module named 'model'\n",
            "ModuleNotFoundError: No module named 'model'",
        ),
    ],
)
def test_pages_of_java_and_python_become_a_line(text: str, line: str | None) -> None:
    assert first_line(Exception(text)) == (line or text)
