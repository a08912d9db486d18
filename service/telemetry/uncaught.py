"""What nobody caught goes to the log instead of standard error: of the main thread, of others, and of finalisers."""

import logging
import sys
import threading
from types import TracebackType

log = logging.getLogger("ranker")


def to_log() -> None:
    sys.excepthook, threading.excepthook, sys.unraisablehook = _uncaught, _uncaught_in_thread, _unraisable


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        log.error("interrupted")
    else:
        log.critical("uncaught %s", kind.__name__, exc_info=(kind, error, trace))


def _uncaught_in_thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is not None and not issubclass(told.exc_type, SystemExit):
        name = told.thread.name if told.thread is not None else "a thread"
        log.error(
            "%s in %s", told.exc_type.__name__, name, exc_info=(told.exc_type, told.exc_value, told.exc_traceback)
        )


def _unraisable(told: "sys.UnraisableHookArgs") -> None:
    exc_info = None if told.exc_value is None else (told.exc_type, told.exc_value, told.exc_traceback)
    log.error("%s: %r", told.err_msg or "exception ignored in", told.object, exc_info=exc_info)
