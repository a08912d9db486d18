"""Make a bundle live, or go back to the one before.

    python -m service.publish BUNDLE [--to HOME] [--sha256 HEX] [--gate 'auc>=0.6' …] [--keep N] [--url URL [--key KEY]]
    python -m service.publish --rollback [--to HOME] [--url URL]

BUNDLE is a folder, an archive (.tar, .tar.gz, .tar.zst, .zip …) or an http, https or s3 URL. It is checked, becomes the
version HOME/<version> and, last, HOME/current; HOME/previous is the one before. HOME is by default what RANKER_BUNDLE
names, or the folder that BUNDLE stands in. A service that watches HOME takes it over within RANKER_BUNDLE_POLL_S; --url
waits until all its workers have. The last line of the output is JSON.

Exit codes: 0 done; 1 refused or broken, nothing changed; 2 wrong arguments; 3 kept out by a gate, nothing changed;
4 published, and the service at --url refused it or did not take it in time.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model import command
from model.bundle import versions
from model.bundle.layout import BundleError
from model.files import AlreadyHeld, held
from service.models import check, gate
from service.models.gate import Barred, Gate
from service.models.installing.place import place
from service.models.outside import NotFollowed, follow
from service.models.target import home_of
from service.settings import SettingsError, load_settings

REFUSED, BARRED, NOT_TAKEN = 1, 3, 4
LOCK = ".publish.lock"
KEY = "RANKER_KEY"  # where --key is not given


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.rollback == (options.bundle is not None):
        parser.error("either BUNDLE or --rollback")
    if options.rollback and (options.sha256 or options.gate):
        parser.error("--rollback takes neither --sha256 nor --gate")
    try:
        load_settings()  # the check reads them: RANKER_HISTORY_KEEP, RANKER_PRECISION
        home = _home(options)
        home.mkdir(parents=True, exist_ok=True)
        with held(home / LOCK):
            figures = _rolled_back(home) if options.rollback else _published(home, options)
            figures["pruned"] = _pruned(home, options.keep)
    except AlreadyHeld as error:
        return _refused(f"another publish (process {error.pid}) is at work in {home}; try again", REFUSED)
    except Barred as error:
        return _refused(f"{options.bundle}: {error}", BARRED)
    except (BundleError, SettingsError, OSError) as error:
        return _refused(command.words(error), REFUSED)
    code = 0
    if options.url:
        try:
            figures["workers"] = follow(options.url, options.key, figures["version"], figures["bundle"], options.wait_s)
        except NotFollowed as error:
            code = _refused(f"{figures['bundle']} is `current`, but {error}", NOT_TAKEN)
    print(json.dumps(figures | {"live": code == 0 if options.url else None}))
    return code


def _published(home: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Raises BundleError, Barred, OSError."""
    begun = time.monotonic()

    def admit(folder: Path) -> None:
        gate.check(folder, options.gate, options.publish_anyway)

    placed = place(options.bundle, home, options.sha256, int(options.max_gb * 2**30), admit)
    before = versions.current(home)
    versions.point(home, placed.version)
    print(f"{home / 'current'} is {placed.name} {placed.version}" + (f", was {before}" if before else ""))
    return {
        "bundle": str(placed.folder),
        "name": placed.name,
        "version": placed.version,
        "previous": versions.previous(home),
        "installed": placed.installed,
        "seconds": round(time.monotonic() - begun, 3),
    }


def _rolled_back(home: Path) -> dict[str, Any]:
    """Raises BundleError, OSError."""
    begun = time.monotonic()
    before, now = versions.previous(home), versions.current(home)
    if before is None or before == now:
        raise BundleError(f"{home}: there is no version to go back to, no `previous` stands beside `current`")
    bundle = check.checked(home / before)
    versions.point(home, before)
    print(f"{home / 'current'} is {bundle.name} {before} again, was {now}")
    return {
        "bundle": bundle.folder,
        "name": bundle.name,
        "version": before,
        "previous": now,
        "installed": False,
        "seconds": round(time.monotonic() - begun, 3),
    }


def _pruned(home: Path, keep: int | None) -> list[str]:
    removed = versions.prune(home, keep) if keep else []
    if removed:
        print(f"removed: {', '.join(removed)}")
    return removed


def _home(options: argparse.Namespace) -> Path:
    """Raises BundleError where nothing names it."""
    if options.to is not None:
        named: Path = options.to
    elif "RANKER_BUNDLE" in os.environ:
        named = Path(os.environ["RANKER_BUNDLE"])
    elif options.bundle and (Path(options.bundle).resolve().parent / versions.CURRENT).is_symlink():
        named = Path(options.bundle).resolve().parent  # one of the versions there
    else:
        raise BundleError("where to? --to HOME names the folder of versions and `current`, or RANKER_BUNDLE does")
    home = home_of(named)
    if home is None:
        raise BundleError(f"{named} is a bundle itself; the folder that holds versions and `current` is needed")
    return home


def _refused(why: str, code: int) -> int:
    print(f"publish: {why}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service.publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("bundle", nargs="?", metavar="BUNDLE", help="a folder, an archive, or an http, https or s3 URL")
    add("--rollback", action="store_true", help="make the version before `current` again")
    add("--to", type=Path, metavar="HOME", help="the folder of versions and `current` (default: RANKER_BUNDLE)")
    add("--sha256", type=_sha256, metavar="HEX", help="of the archive, or of a folder's manifest.json; a URL needs it")
    add("--gate", type=_gate, action="append", default=[], metavar="RULE", help="of its report: 'auc>=0.6'; repeatable")
    add("--publish-anyway", action="store_true", help="also where its training did not publish it")
    add(
        "--keep", type=_positive, metavar="N", help="prune: keep the newest N, `current`, `previous` and what is served"
    )
    add("--max-gb", type=_number, default=64.0, metavar="GB", help="unpacked size at most (default 64)")
    add("--url", metavar="URL", help="of a service: wait until all its workers answer with it")
    add("--key", default=os.environ.get(KEY), help=f"that service's API key (default: ${KEY})")
    add("--wait-s", type=_number, default=300.0, metavar="S", help="for that service at most (default 300)")
    return parser


def _sha256(text: str) -> str:
    if len(text) != 64 or set(text.lower()) - set("0123456789abcdef"):
        raise argparse.ArgumentTypeError(f"{text!r} given, 64 hexadecimal digits are allowed")
    return text.lower()


def _gate(text: str) -> Gate:
    try:
        return Gate.of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} given, an integer of at least 1 is allowed")
    return int(text)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} given, a number above 0 is allowed")
    return number


if __name__ == "__main__":
    command.run(main, "publish")
