"""The log: its format, and which requests get a line.

A request's line holds its id, route, status, outcome, milliseconds by stage and trace; never an item or a body. It
holds the user only where the operator wants that. Failed and slow requests always get a line, of the others a share.
"""

import logging
import random
import time
from collections.abc import Mapping
from typing import Any, Literal

import orjson

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
FIELDS = "ranker_fields"  # where a record carries its fields, which JSON has beside the message

requests = logging.getLogger("ranker.request")


def configure(level: str, form: Literal["text", "json"]) -> None:
    """Sends all log lines of this process to its standard error, uvicorn's too; may be called again."""
    handler = logging.StreamHandler()
    handler.setFormatter(Json() if form == "json" else Text(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class Text(logging.Formatter):
    """One line for people: the message, then what it is about."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, FIELDS, {})
        parts = [f"{name} {value}" for name, value in fields.items() if not isinstance(value, dict)]
        nested = [value for value in fields.values() if isinstance(value, dict)]
        parts += [f"{name} {value}" for part in nested for name, value in part.items()]
        return super().formatMessage(record) + (": " + ", ".join(parts) if parts else "")


class Json(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, then what the line is about."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode(errors="replace")


class RequestLog:
    """Decides which answered requests get a line; one without costs no more than that decision.

    Of the requests that are neither failed nor slow, `share` get one; with `slow_ms` 0, none is slow.
    """

    def __init__(self, share: float, slow_ms: float, level: str = "info"):
        self._share = 1.0 if level == "debug" else share if level == "info" else 0.0
        self._slow_s = slow_ms / 1000 if slow_ms and level != "error" else float("inf")

    def why(self, outcome: str, total_s: float) -> str | None:
        """Why this request gets a line: `failed`, `slow` or `sampled`; None when it gets none."""
        if outcome == "failed":
            return "failed"
        if total_s >= self._slow_s:
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
