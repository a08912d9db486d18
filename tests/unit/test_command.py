"""How commands end where they do not end well: one line, an exit code, no traceback."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model.command import words
from tests.processes import ROOT, started, wait_until

RUN = "import errno, os, sys\nfrom model.command import run\ndef main():\n    {body}\nrun(main, 'verb', 'all is kept')"


def ended(body: str, stdout: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", RUN.format(body=body)]
    shell = f'"$@" {stdout}; exit ${{PIPESTATUS[0]}}'
    return subprocess.run(["bash", "-c", shell, "-", *command], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("pass", 0, ""),
        ("return 3", 3, ""),
        ("sys.exit(2)", 2, ""),
        ("raise KeyboardInterrupt", 130, "\nverb: interrupted; all is kept\n"),
        ("raise KeyboardInterrupt('12 users are loaded')", 130, "\nverb: interrupted; 12 users are loaded\n"),
        ("raise MemoryError", 1, "verb: out of memory\n"),
        ("open('/nowhere/x')", 1, "verb: /nowhere/x is not there\n"),
        ("open('/dev/full', 'w').write('x' * 100000)", 1, "verb: No space left on device\n"),
    ],
)
def test_a_command_ends_in_one_line_and_its_exit_code(body: str, code: int, says: str) -> None:
    end = ended(body)
    assert (end.returncode, end.stderr, end.stdout) == (code, says, "")


def test_a_reader_that_has_read_enough_is_no_fault() -> None:
    end = ended("print('x' * 1000000)", stdout="| head -c 1")
    assert (end.returncode, end.stdout, end.stderr) == (141, "x", "")


def test_output_that_cannot_be_written_is_told() -> None:
    end = ended("print('x')", stdout="> /dev/full")
    assert (end.returncode, end.stderr) == (1, "verb: No space left on device\n")


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOENT, "a/b is not there"),
        (errno.EACCES, "a/b may not be read or written: permission denied"),
        (errno.EISDIR, "a/b is a folder, a file is needed"),
        (errno.ENOSPC, "a/b cannot be written: no space left on the disk"),
        (errno.EIO, "a/b: Input/output error"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_words(number: int, says: str) -> None:
    assert words(OSError(number, os.strerror(number), "a/b")) == says


def test_an_interrupt_that_comes_while_an_object_is_cleared_away_is_not_lost() -> None:
    """Python cannot raise it there, and passes over it."""
    clears = "C = type('C', (), {'__del__': lambda self: signal.raise_signal(signal.SIGINT) or [0] * 10})"
    end = ended(f"import signal, time; {clears}; C(); time.sleep(60)")
    assert (end.returncode, end.stderr) == (130, "\nverb: interrupted; all is kept\n")


def test_ctrl_c_leaves_no_traceback_and_nothing_half_written(tmp_path: Path) -> None:
    large = ("--dataset", "simulated", "--impressions", "2000000", "--seed", "1")
    with started("-m", "model.prepare", *large, "--out", tmp_path / "data") as command:
        wait_until(lambda: [path for path in tmp_path.rglob("*") if path.is_file()], command)  # it is at work
        command.process.send_signal(signal.SIGINT)
        assert command.ended() == 130
        assert "prepare: interrupted; --out is as it was" in command.output
        assert "Traceback" not in command.output
    assert list(tmp_path.iterdir()) == []


WHILE_IMPORTING = """
import builtins, runpy, sys

def stop(name, *rest, usual=builtins.__import__, **more):
    if name == "argparse":
        raise KeyboardInterrupt
    return usual(name, *rest, **more)

sys.argv[:] = ["-m"]
builtins.__import__ = stop
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["model.evaluate", "service.backfill", "loadtest.encoding"])
def test_ctrl_c_while_a_command_imports_what_it_needs_is_one_line(module: str) -> None:
    command = [sys.executable, "-c", WHILE_IMPORTING.format(module=module)]
    interrupted = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert interrupted.returncode and interrupted.stderr == "\ninterrupted; nothing is left half-written\n"
