"""`python -m service`: what it takes on the command line. All else is set by `RANKER_*` variables (settings.py)."""

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from model import command
from service.telemetry import logs

ABOUT = """The ranking service: POST /rank answers with the candidates in the order of the bundle's model, which knows a
user by the profile and the history in the store.

It is set by RANKER_* variables (docs/settings.md lists all):

  RANKER_BUNDLE       a bundle, or the folder whose `current` points to one; unset: the demo bundle
  RANKER_REDIS_URL    the store; unset: an embedded one with the demo's users, lost at exit
  RANKER_HOST, _PORT  where it listens: 127.0.0.1:8000
  RANKER_KEYS_FILE    API keys, needed where other machines reach it: python -m service.keys
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description=ABOUT,
        epilog="Users and histories go into a store of your own by python -m service.backfill.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"bst-ranker {version('bst-ranker')}")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="to try a bundle: load this prepared data set's users and histories into the embedded store, the newest "
        "behaviour as if it had just happened",
    )
    arguments = parser.parse_args(argv)
    logs.begin()
    from service.process.serving import serve  # what serves takes longer to import than an answer to --help may

    return serve(arguments.data)


if __name__ == "__main__":
    command.run(main, "service", "nothing was started", logs.refused)
