"""How every command ends where it does not end well: one line on standard error, an exit code, no traceback."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, NoReturn

INTERRUPTED, PIPE_CLOSED = 130, 141  # as a shell tells of SIGINT and SIGPIPE
AGAIN = "nothing is left half-written"
SOON_S = 0.01


def run(
    main: Callable[[], int | None], name: str, kept: str = AGAIN, say: Callable[[str], None] | None = None
) -> NoReturn:
    """Runs `main` and leaves the process with its exit code.

    `kept` says what an interrupted run leaves behind and how it goes on. What `main` knows better it raises itself:
    KeyboardInterrupt("12 users are loaded; …"). `say` writes the line; unset: to standard error as it is.
    """
    say = say or _say
    status: int | str | None
    sys.unraisablehook = _not_lost(sys.unraisablehook)
    try:
        try:
            status = main() or 0
        except SystemExit as end:  # argparse: --help, or wrong arguments
            status = end.code
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the second Ctrl-C ends what still takes its time
        say(f"\n{name}: interrupted; {str(error) or kept}")
        status = INTERRUPTED
    except BrokenPipeError:  # `| head` has read enough
        status = PIPE_CLOSED
    except MemoryError as error:
        say(f"{name}: out of memory{f': {error}' if str(error) else ''}")
        status = 1
    except OSError as error:
        say(f"{name}: {words(error)}")
        status = 1
    try:
        sys.stdout.flush()
    except OSError:  # what is left in it goes nowhere: Python would flush it once more, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _not_lost(usual: Callable[[Any], object]) -> Callable[[Any], object]:
    """Raises an interrupt again that Python lost, since it came while an object was being cleared away (`__del__`)."""

    def hook(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            usual(unraisable)
        elif threading.current_thread() is threading.main_thread():  # soon: raised in here, it would be lost again
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, SOON_S)

    return hook


def quiet_while_importing() -> None:
    """Ctrl-C before `run` has begun, while a command imports what it needs, is one line too."""
    if sys.argv[:1] != ["-m"]:  # so it is as long as the packages on the way to the module are imported
        return
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            _say(f"\ninterrupted; {AGAIN}")
        else:
            usual(kind, error, trace)

    sys.excepthook = hook


def _say(line: str) -> None:
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def words(error: BaseException) -> str:
    """An error for people: of a file its name and what is wrong, without number and quotes."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    name = error.filename.decode(errors="replace") if isinstance(error.filename, bytes) else error.filename
    what = {
        errno.ENOENT: "is not there",
        errno.EEXIST: "stands where a folder is needed",
        errno.EACCES: "may not be read or written: permission denied",
        errno.ENOTDIR: "is not there: a part of its path is no folder",
        errno.EISDIR: "is a folder, a file is needed",
        errno.ENOSPC: "cannot be written: no space left on the disk",
        errno.EROFS: "cannot be written: the file system is read-only",
    }.get(error.errno or 0)
    if name is None:
        return error.strerror
    return f"{name} {what}" if what else f"{name}: {error.strerror}"
