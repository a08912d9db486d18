"""`python -m service.keys`: a new API key, and the line by which the service knows it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from model import command
from model.files import replacing
from service.access.keys import SCOPES, KeysError, made, parsed

ABOUT = """A new API key. It is shown once and kept nowhere: give it to the caller.

  python -m service.keys shop rank                           the key, then the line for RANKER_KEYS_FILE
  python -m service.keys shop rank,write --file keys         the key; the line is added to the file

The line holds a hash, not the key. A running service reads a changed file within a second or two.
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m service.keys", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", metavar="NAME", help="what logs call it: a caller, and a date, so that it can rotate")
    parser.add_argument("scopes", metavar="SCOPES", help=f"one or more of {', '.join(SCOPES)}, with commas between")
    parser.add_argument("--file", type=Path, metavar="FILE", help="add the line to this file, which is made if need be")
    arguments = parser.parse_args(argv)
    try:
        token, line = made(arguments.name, arguments.scopes)
        if arguments.file is not None:
            _add(arguments.file, line)
    except KeysError as error:
        print(f"keys: {error}", file=sys.stderr)
        return 1
    print(token)
    if arguments.file is None:
        print(line)
    return 0


def _add(file: Path, line: str) -> None:
    """Writes beside and renames, so that a service never reads half of it. Raises KeysError, OSError."""
    old = file.read_text() if file.exists() else ""
    new = f"{old.rstrip()}\n{line}\n".lstrip()
    try:
        parsed(new, "line")
    except KeysError as error:
        raise KeysError(f"{file}: {error}; nothing was written") from None
    with replacing(file) as partial:
        partial.write_text(new)
        if file.exists():
            partial.chmod(file.stat().st_mode & 0o777)


if __name__ == "__main__":
    command.run(main, "keys", "no key was made")
