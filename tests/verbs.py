"""A verb called in process, as its command line is."""

from collections.abc import Callable, Sequence

import pytest


def refusal(capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], int], arguments: Sequence[str]) -> str:
    """The last line with which a verb refuses its arguments; its exit code is 2."""
    try:
        code: object = main(list(arguments))
    except SystemExit as end:  # argparse's
        code = end.code
    out, err = capsys.readouterr()
    assert code == 2, out + err
    return str(err.splitlines()[-1])
