"""Turn journals into tables: what was shown and what came back, as Parquet partitioned by day.

    python -m service.drain --journal DIR --out DIR-or-URL [--every SECONDS] [--keep]
    python -m service.drain --forget-again --out DIR-or-URL

Files that workers have closed, and those of workers that are dead, become the tables of model/servicelog/tables.py,
each record exactly once, however often this is killed and begun again. It runs beside workers that serve, as a cron
job or with --every beside them, on the same machine: it asks the kernel who is alive. --out is a folder, s3://… or gs://…
Who was forgotten (DELETE /users/{id}) is removed from the tables that are there and from all that come later. Where
drains of several machines share --out, two may write one table at once, and what one removed comes back:
--forget-again, once a day by one machine, removes whoever was ever forgotten from all tables anew.

Each pass then tells, in DIR/lately.json, how often what was shown in the last hours was clicked, and how often its
scores predicted it: /metrics of the services beside DIR shows it, so run it --every few minutes. --label is the action
that is a click.

A file that was cut is drained up to where it is whole, and kept in DIR/aside, as is what is no journal or of another
version: a line each, and exit code 1. The last line of the output is JSON; with --every there is one for each pass
that found anything. With --every, SIGTERM ends it after one more pass.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

from model import command
from model.files import AlreadyHeld, held

WINDOW_S = 1800.0  # for a click to come, as model.prepare takes it
KEPT = "what is not in the tables yet is still in the journal"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m service.drain", description="Turn journals into Parquet tables.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--journal", type=Path, metavar="DIR", help="as RANKER_JOURNAL")
    source.add_argument(
        "--forget-again",
        action="store_true",
        help="drain nothing: remove who was ever forgotten from all tables of --out",
    )
    parser.add_argument("--out", required=True, metavar="DIR-or-URL", help="a folder, s3://… or gs://…")
    parser.add_argument("--every", type=_seconds, metavar="SECONDS", help="go on, so long between two passes")
    parser.add_argument("--keep", action="store_true", help="move drained files to DIR/drained rather than remove them")
    parser.add_argument(
        "--lately", type=_seconds, default=6.0, metavar="HOURS", help="that are told of in /metrics (6)"
    )
    parser.add_argument("--label", default="click", metavar="ACTION", help="the event that is a click (click)")
    parser.add_argument("--type", default="item", metavar="OBJECT_TYPE", help="of the items (item)")
    options = parser.parse_args(argv)
    if options.forget_again:
        return _forget_again(options.out)
    if not options.journal.is_dir():
        what = "is a file, a folder is needed" if options.journal.exists() else "is not there"
        say(f"--journal {options.journal} {what}")
        return 1
    stopping = Stopping()
    if options.every is not None:
        signal.signal(signal.SIGTERM, stopping.begin)  # the first process of a container has no default for it

    import duckdb
    import polars as pl  # after --help

    from service.drained import lately
    from service.drained.drain import drain
    from service.drained.files import LOCK
    from service.drained.out import Out

    with ExitStack() as stack:
        try:
            out = Out(options.out)
            if out.local:
                Path(out.where).mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(Path(out.where) / LOCK))
            if not out.local or not Path(out.where).samefile(options.journal):
                stack.enter_context(held(options.journal / LOCK))
        except AlreadyHeld as error:
            say(f"another drain (process {error.pid}) is at work there: {error}")
            return 1
        except (ValueError, OSError) as error:
            say(command.words(error))
            return 1
        while True:
            begun, code, last = time.monotonic(), 1, options.every is None or stopping.begun
            try:
                drained = drain(options.journal, out, say, options.keep)
            except (OSError, pl.exceptions.PolarsError) as error:
                say(f"{command.words(error).strip().splitlines()[0]}; {KEPT}")
            else:
                code = 0 if drained.well else 1
                try:
                    lately.tell(out.where, options.journal, options.lately, WINDOW_S, options.label, options.type)
                except (OSError, ValueError, duckdb.Error) as error:
                    say(f"what was clicked lately cannot be told: {command.words(error).strip().splitlines()[0]}")
                    code = 1
                if options.every is None or drained.files or not drained.well:
                    seconds = round(time.monotonic() - begun, 3)
                    print(json.dumps({**drained.figures(), "seconds": seconds}), flush=True)
            if last:
                return code
            stopping.wait(options.every)


def _forget_again(where: str) -> int:
    import polars as pl

    from service.drained.files import LOCK
    from service.drained.out import Out

    begun = time.monotonic()
    try:
        out = Out(where)
        with held(Path(out.where) / LOCK) if out.local else nullcontext():
            rows = out.forget(out.forgotten())
    except AlreadyHeld as error:
        say(f"a drain (process {error.pid}) is at work there: {error}")
        return 1
    except (ValueError, OSError, pl.exceptions.PolarsError) as error:
        say(f"{command.words(error).strip().splitlines()[0]}; begin again")
        return 1
    print(json.dumps({"forgotten_rows": rows, "seconds": round(time.monotonic() - begun, 3)}))
    return 0


def say(line: str) -> None:
    print(f"drain: {line}", file=sys.stderr, flush=True)


class Stopping:
    """SIGTERM, which is answered by one more pass: beside a service that has just ended, its last files are drained."""

    def __init__(self) -> None:
        self.begun = False

    def begin(self, *_: object) -> None:
        self.begun = True

    def wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.begun and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))  # a signal alone does not end a sleep


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} given, a number above 0 is allowed")
    return seconds


if __name__ == "__main__":
    command.run(main, "drain", KEPT)
