"""What a right answer is, what else an answer may be, and the log of all answers of a run."""

import math
import re
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from loadtest.generator.client import Answer
from loadtest.generator.plan import Body

KEPT_BYTES = 64 * 2**20  # answers checked after the clock; later ones are checked as they come, to bound memory
MOST_WHY = 80  # characters of an answer's own words
MOST_STAGES = 16  # more names than this are not a service's stages
TOLERANCE = 1e-5  # of scores that are known beforehand: how many are scored in one run moves the last digits
OTHER_ITEMS, OTHER_SCORES = "not the items asked for", "not the scores of this request"  # what a crossed answer has

_METRIC = re.compile(r"^\s*([!#$%&'*+.^`|~\w-]+)\s*;(?:.*;)?\s*dur\s*=\s*\"?([0-9.]+)\"?\s*(?:;.*)?$", re.ASCII)


class Kind(IntEnum):
    """How a request ended. The first two are right answers; the last three are errors."""

    RIGHT = 0
    DEGRADED = 1  # right, and `degraded` says what it had to do without
    REFUSED = 2  # 429 with a Retry-After: turned away, by a service that knows its limits
    LATE = 3  # 504: given up by the service, past its deadline
    WRONG = 4  # 200 with anything but what was asked for, or a 429 that does not say when to come again
    FAILED = 5  # any other status, or a connection that broke
    UNANSWERED = 6  # not even that by the end of the run


SERVED = (Kind.RIGHT, Kind.DEGRADED)
ERRORS = (Kind.WRONG, Kind.FAILED, Kind.UNANSWERED)


class Checked(NamedTuple):
    """`why`: what is wrong, refused or degraded; empty for a right answer. `parsed`: its JSON, where it has any."""

    kind: Kind
    why: str
    parsed: Any


def check(answer: Answer, body: Body) -> Checked:
    """What an answer to `body` by POST /rank is."""
    if answer.failure:
        return Checked(Kind.FAILED, answer.failure, None)
    parsed = _parsed(answer.content)
    match answer.status:
        case 200:
            if fault := _fault(parsed, body):
                return Checked(Kind.WRONG, fault, parsed)
            degraded = _reasons(parsed.get("degraded"))
            if not degraded and _differs(parsed["items"], body.scores):
                return Checked(Kind.WRONG, OTHER_SCORES, parsed)
            return Checked(Kind.DEGRADED if degraded else Kind.RIGHT, degraded, parsed)
        case 429 if not _says_when(answer.retry_after):
            return Checked(Kind.WRONG, "status 429 without a Retry-After of seconds or a date", parsed)
        case 429:
            return Checked(Kind.REFUSED, "status 429", parsed)
        case 504:
            return Checked(Kind.LATE, "status 504", parsed)
    return Checked(Kind.FAILED, f"status {answer.status}", parsed)


def _reasons(degraded: Any) -> str:
    return ", ".join(map(str, degraded))[:MOST_WHY] if isinstance(degraded, list) else str(degraded or "")[:MOST_WHY]


def _says_when(retry_after: bytes) -> bool:
    """RFC 9110: whole seconds, or an HTTP date."""
    if retry_after.strip().isdigit():
        return True
    try:
        parsedate_to_datetime(retry_after.decode("latin-1"))
    except ValueError:
        return False
    return True


def _parsed(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None


def _fault(answer: Any, body: Body) -> str | None:
    if answer is None:
        return "not JSON"
    try:
        ranked = answer["items"]
        scores = [item["score"] for item in ranked]
    except (KeyError, TypeError):
        return "no items with scores"
    if len(scores) != body.items:
        return "wrong number of items"
    if not all(type(score) in (float, int) and math.isfinite(score) for score in scores):
        return "a score is no finite number"
    if any(worse > better for better, worse in zip(scores, scores[1:], strict=False)):
        return "not sorted by score"
    if not _asked_for([item.get("item_id") for item in ranked], body):
        return OTHER_ITEMS
    return None


def _differs(ranked: Sequence[Any], scores: Mapping[str | int, float] | None) -> bool:
    return scores is not None and any(abs(scores[one["item_id"]] - one["score"]) > TOLERANCE for one in ranked)


def _asked_for(answered: Sequence[Any], body: Body) -> bool:
    """Whether the ids are those of the request, each as often as it was asked for (`top_k` leaves some out)."""
    candidates = orjson.loads(body.content)["candidates"]
    left: dict[Any, int] = {}
    for candidate in candidates:
        item = candidate.get("item_id") if isinstance(candidate, dict) else candidate
        item = item if isinstance(item, str | int) else None  # which no service answers
        left[item] = left.get(item, 0) + 1
    for item in answered:
        if not isinstance(item, str | int) or not left.get(item):
            return False
        left[item] -= 1
    return True


def stages_ms(answer: Any, server_timing: bytes) -> dict[str, float]:
    """Where the time went inside the service, by its own account: Server-Timing's, and the answer's `timings_ms`.

    Where both have a stage, the header's counts: it was written when the answer was ready to leave.
    """
    timings = answer.get("timings_ms") if isinstance(answer, dict) else None
    stages = {name: ms for name, ms in timings.items() if type(ms) in (float, int)} if isinstance(timings, dict) else {}
    for entry in server_timing.decode("latin-1").split(",") if server_timing else ():
        if metric := _METRIC.match(entry):
            stages[metric[1]] = _number(metric[2])
    return stages


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


class Part(NamedTuple):
    """A closed log as one process hands it to another."""

    sent_s: npt.NDArray[np.float64]
    answered_s: npt.NDArray[np.float64]
    kinds: npt.NDArray[np.int8]
    whys: dict[int, str]
    stages: dict[str, npt.NDArray[np.float32]]


class Log:
    """When each of `due_s` requests was due, sent and answered, in seconds from the start, and how it ended.

    A time is NaN as long as it has not come. Contents are kept and checked after the clock, since checking costs CPU
    that the next send may need. `kinds` are each request's Kind, (n,), complete after `close`. `stages` are
    milliseconds from the service's answers, by name, (n,) each, or NaN.
    """

    def __init__(self, due_s: npt.NDArray[np.float64], bodies: Sequence[Body], kept_bytes: int = KEPT_BYTES):
        self.due_s = due_s
        self.kinds = np.full(len(due_s), Kind.UNANSWERED, np.int8)
        self.stages: dict[str, npt.NDArray[np.float32]] = {}
        self._bodies = bodies  # round again when the requests are more
        self._sent_s = [math.nan] * len(due_s)
        self._answered_s = [math.nan] * len(due_s)
        self._whys: dict[int, str] = {}
        self._kept: dict[int, Answer] = {}
        self._room = kept_bytes

    def sent(self, request: int, at_s: float) -> None:
        self._sent_s[request] = at_s

    def answered(self, request: int, at_s: float, answer: Answer) -> None:
        self._answered_s[request] = at_s
        self._room -= len(answer.content)
        if self._room >= 0:
            self._kept[request] = answer
        else:
            self._check(request, answer)

    def close(self, end_s: float) -> None:
        """The end of the run: checks the kept answers; an unanswered request counts as taking until `end_s`."""
        for request, answer in self._kept.items():
            self._check(request, answer)
        self._kept.clear()
        for request, (sent_s, answered_s) in enumerate(zip(self._sent_s, self._answered_s, strict=True)):
            if math.isnan(sent_s):
                self._whys[request] = "never sent"
            elif math.isnan(answered_s):
                self._whys[request] = "no answer in time"
        self.sent_s = np.array(self._sent_s)
        self.answered_s = np.nan_to_num(np.array(self._answered_s), nan=end_s)

    def of(self, *kinds: Kind) -> npt.NDArray[np.bool_]:
        """Which requests ended so, (n,)."""
        return np.isin(self.kinds, kinds)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Which requests got what they asked for, degraded or not, (n,)."""
        return self.of(*SERVED)

    @property
    def timed(self) -> npt.NDArray[np.bool_]:
        """Which requests' times mean anything, (n,): right answers, and what nobody answered, which took until the end.

        How fast a service refuses or fails says nothing of how fast it answers; counted, it would flatter.
        """
        return self.of(*SERVED, Kind.UNANSWERED)

    def whys(self) -> list[str]:
        """One per request: what was wrong, refused or degraded; empty for a right answer."""
        return [self._whys.get(request, "") for request in range(len(self.due_s))]

    def faults(self) -> list[str | None]:
        """One per request: why it got no right answer, refused and late ones included; None for a right one."""
        return [None if right else why for why, right in zip(self.whys(), self.right.tolist(), strict=True)]

    def part(self) -> Part:
        return Part(self.sent_s, self.answered_s, self.kinds, self._whys, self.stages)

    @classmethod
    def joined(cls, due_s: npt.NDArray[np.float64], parts: Sequence[Part]) -> "Log":
        """The log of requests that several processes sent in turn: of n parts, the first has requests 0, n, 2n, ..."""
        log = cls(due_s, [])
        log.sent_s, log.answered_s = np.empty_like(due_s), np.empty_like(due_s)
        for first, part in enumerate(parts):
            mine = slice(first, None, len(parts))
            log.sent_s[mine], log.answered_s[mine], log.kinds[mine] = part.sent_s, part.answered_s, part.kinds
            log._whys |= {first + len(parts) * request: why for request, why in part.whys.items()}
            for name, ms in part.stages.items():
                log.stages.setdefault(name, np.full(len(due_s), np.nan, np.float32))[mine] = ms
        return log

    def _check(self, request: int, answer: Answer) -> None:
        kind, why, parsed = check(answer, self._bodies[request % len(self._bodies)])
        self.kinds[request] = kind
        if why:
            self._whys[request] = why
        for name, ms in stages_ms(parsed, answer.server_timing).items():
            if name not in self.stages and len(self.stages) < MOST_STAGES:
                self.stages[name] = np.full(len(self.due_s), np.nan, np.float32)
            if name in self.stages:
                self.stages[name][request] = ms
