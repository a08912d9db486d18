"""The log: its format, what all goes by it, and which requests get a line.

A request's line holds its id, route, status, outcome, milliseconds by stage and trace; never an item or a body. It
holds the user only where the operator wants that. Failed and slow requests always get a line, of the others a share.
"""

import json
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import orjson

from service.telemetry import uncaught

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
FIELDS = "ranker_fields"  # where a record carries its fields, which JSON has beside the message
EVENT = "ranker_event"  # where it carries what others may have told already
PROCESS = "RANKER_PROCESS"  # names a child whose lines its parent passes on (relay.py)
LEVELS = ("debug", "info", "warning", "error")
_MARK, _PART = "\x1e", "\x1f"  # around and within an event before its line; no line of ours begins so

Form = Literal["text", "json"]

log = logging.getLogger("ranker")
requests = logging.getLogger("ranker.request")
_handler: "Lines | None" = None
_form: Form = "text"


def begin() -> None:
    """As `configure`, by the environment alone: so that what is wrong with the settings is told in their format too."""
    level, form = os.environ.get("RANKER_LOG_LEVEL", ""), os.environ.get("RANKER_LOG_FORMAT", "")
    configure(level if level in LEVELS else "info", "json" if form == "json" else "text")


def configure(level: str, form: Form) -> None:
    """Sends all log lines of this process to its standard error, uvicorn's too; may be called again.

    As JSON also what else would be written there: warnings, and tracebacks that nobody caught.
    """
    global _handler, _form
    _handler, _form = Lines(), form
    _handler.setFormatter(Json(os.environ.get(PROCESS)) if form == "json" else Text(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[_handler], force=True)
    if form == "json":
        logging.captureWarnings(True)
        uncaught.to_log()


def call_it(process: str) -> None:
    """What this process is called in the lines that its parent passes on: a worker learns only later which it is."""
    if PROCESS in os.environ:
        os.environ[PROCESS] = process
        if _handler is not None and _form == "json":
            _handler.setFormatter(Json(process))


def as_json() -> bool:
    return _form == "json"


def configured() -> bool:
    return _handler is not None


def refused(text: str) -> None:
    """The one line of a start that does not come about, or of an end that was not meant: without a time for people."""
    if _form == "json":
        log.error("%s", text.strip().removeprefix("service: "))
        return
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def pass_on(line: str, process: str) -> None:
    """A child's line, as it is; as JSON, if it is none of ours, as the message of one."""
    if _handler is None:
        return
    if _form == "json" and not _is_object(line):
        if line.strip():
            log.warning("%s", line, extra={FIELDS: {"process": process, "logger": "stderr"}})
        return
    with suppress(OSError, ValueError), _handler.lock or threading.Lock():  # closed, or its reader has left
        _handler.stream.write(line + "\n")
        _handler.flush()


def _is_object(line: str) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


_PLAIN = dict.fromkeys(map(ord, f"{_MARK}{_PART}\r\n"), " ")  # a line's end or a mark in an event's words would cut it


class Event(NamedTuple):
    """What a record tells that other processes see too: `extra=event("store", "down", well=False)`."""

    subject: str
    state: str
    well: bool

    def mark(self) -> str:
        """A line's beginning, whatever subject and state hold."""
        subject, state = (text.translate(_PLAIN) for text in (self.subject, self.state))
        return f"{_MARK}{subject}{_PART}{state}{_PART}{int(self.well)}{_MARK}"

    @classmethod
    def read(cls, line: str) -> "tuple[Event | None, str]":
        """The event of a line and the line itself."""
        if not line.startswith(_MARK):
            return None, line
        mark, _, rest = line[1:].partition(_MARK)
        subject, state, well = mark.split(_PART)
        return cls(subject, state, well == "1"), rest


def event(subject: str, state: str, well: bool = True) -> dict[str, Any]:
    """A record's `extra`. Once `well` changes, a state that was told before is told again."""
    return {EVENT: Event(subject, state, well)}


class Lines(logging.StreamHandler[Any]):
    """To standard error. A record that cannot be written as it is meant is written as it can."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        told: Event | None = getattr(record, EVENT, None)
        return line if told is None or PROCESS not in os.environ else told.mark() + line

    def handleError(self, record: logging.LogRecord) -> None:
        kind, error, _ = sys.exc_info()
        if kind is not None and issubclass(kind, OSError):
            return  # nobody reads: there is nowhere to tell it
        record.msg, record.args = f"{record.msg} {record.args!r} (not as it was meant: {error!r})", None
        record.exc_info = record.exc_text = None
        with suppress(OSError, ValueError, TypeError):
            self.stream.write(self.format(record) + self.terminator)
            self.flush()


class Text(logging.Formatter):
    """One line for people: the message, then what it is about."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, FIELDS, {})
        parts = [f"{name} {value}" for name, value in fields.items() if not isinstance(value, dict)]
        nested = [value for value in fields.values() if isinstance(value, dict)]
        parts += [f"{name} {value}" for part in nested for name, value in part.items()]
        return super().formatMessage(record) + (": " + ", ".join(parts) if parts else "")


class Json(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, then what the line is about, and who says it."""

    def __init__(self, process: str | None = None) -> None:
        super().__init__()
        self._process = {} if process is None else {"process": process}

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._process,
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # half a character, a number of more than 64 bits: what orjson does not write
            return json.dumps(line, default=str)


class RequestLog:
    """Decides which answered requests get a line; one without costs no more than that decision.

    Of the requests that are neither failed nor slow, `share` get one; with `slow_ms` 0, none is slow.
    """

    def __init__(self, share: float, slow_ms: float, level: str = "info"):
        self._share = 1.0 if level == "debug" else share if level == "info" else 0.0
        self._slow_s = slow_ms / 1000 if slow_ms and level != "error" else float("inf")

    def why(self, outcome: str, total_s: float, patient: bool = False) -> str | None:
        """Why this request gets a line: `failed`, `slow` or `sampled`; None when it gets none.

        `patient`: it takes its time by design, and is never slow.
        """
        if outcome == "failed":
            return "failed"
        if total_s >= self._slow_s and not patient:
            return "slow"
        if self._share and random.random() < self._share:
            return "sampled"
        return None

    def tell(self, why: str, stages_s: Mapping[str, float], total_s: float, **fields: Any) -> None:
        """Writes the line; `fields` that are None are left out."""
        known = {name: value for name, value in fields.items() if value is not None}
        stages_ms = {name: round(seconds * 1000, 3) for name, seconds in stages_s.items()}
        line = {"why": why, **known, "total_ms": round(total_s * 1000, 3), "stages_ms": stages_ms}
        level = {"failed": logging.ERROR, "slow": logging.WARNING}.get(why, logging.INFO)
        requests.log(level, "%s request", why, extra={FIELDS: line})
