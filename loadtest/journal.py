"""What the journal costs a request: p50 of POST /rank with it and without, the two services taking turns.

    python -m loadtest.journal [--starts N] [--rounds N] [--rate 50] [--quick]

Two services on the demo bundle, each with a store of its own, are asked the same requests at a moderate rate, as
loadtest/steady.py does it; one writes a journal into a folder that is removed afterwards. The bound is 1.03. The last
line is JSON.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtest.bench.command import Command, Measured
from loadtest.errors import NoRun
from loadtest.steady import QUICK, Sizes, add_sizes, compared, response_times
from model.command import run as run_command

WITHOUT, WITH = "without", "with"


def measure(sizes: Sizes) -> Measured:
    """Raises NoRun, also where nothing was journalled."""
    with tempfile.TemporaryDirectory() as folder:
        times_ms = response_times({WITHOUT: {}, WITH: {"journal": folder}}, sizes)
        written = sum(path.stat().st_size for path in Path(folder).iterdir())
    if not written:
        raise NoRun("the service with a journal has written none")
    measured = compared(times_ms, WITHOUT, WITH)
    measured.figures["journal_bytes"] = written
    return measured


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("journal", __doc__, Sizes(), QUICK)
    add_sizes(command)
    return command.run(arguments, lambda args, sizes: measure(sizes))


if __name__ == "__main__":
    run_command(main, "journal")
