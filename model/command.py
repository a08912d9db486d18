"""How every command ends where it does not end well: one line on standard error, an exit code, no traceback."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

INTERRUPTED, PIPE_CLOSED = 130, 141  # as a shell tells of SIGINT and SIGPIPE
AGAIN = "nothing is left half-written"


def run(main: Callable[[], int | None], name: str, kept: str = AGAIN) -> NoReturn:
    """Runs `main` and leaves the process with its exit code.

    `kept` says what an interrupted run leaves behind and how it goes on. What `main` knows better it raises itself:
    KeyboardInterrupt("12 users are loaded; …").
    """
    try:
        status = main() or 0
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the second Ctrl-C ends what still takes its time
        print(f"\n{name}: interrupted; {error or kept}", file=sys.stderr)
        status = INTERRUPTED
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its end
        status = PIPE_CLOSED
    except MemoryError as error:
        print(f"{name}: out of memory{f': {error}' if str(error) else ''}", file=sys.stderr)
        status = 1
    except OSError as error:
        print(f"{name}: {words(error)}", file=sys.stderr)
        status = 1
    sys.exit(status)


def words(error: BaseException) -> str:
    """An error for people: of a file its name and what is wrong, without number and quotes."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    name = error.filename.decode(errors="replace") if isinstance(error.filename, bytes) else error.filename
    what = {
        errno.ENOENT: "is not there",
        errno.EACCES: "may not be read or written: permission denied",
        errno.ENOTDIR: "is not there: a part of its path is no folder",
        errno.EISDIR: "is a folder, a file is needed",
        errno.ENOSPC: "cannot be written: no space left on the disk",
        errno.EROFS: "cannot be written: the file system is read-only",
    }.get(error.errno or 0)
    if name is None:
        return error.strerror
    return f"{name} {what}" if what else f"{name}: {error.strerror}"
