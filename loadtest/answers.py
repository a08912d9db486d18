"""What a right answer is, and the log of all answers of a run."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import orjson

from loadtest.client import Answer

KEPT_BYTES = 64 * 2**20  # answers checked after the clock; later ones are checked as they come, to bound memory


def fault(status: int, content: bytes, items: int) -> str | None:
    """What is wrong with an answer of POST /rank that should rank `items` items; None when it is right."""
    if status != 200:
        return f"status {status}"
    try:
        ranked = orjson.loads(content)["items"]
        scores = [item["score"] for item in ranked]
    except orjson.JSONDecodeError:
        return "not JSON"
    except (KeyError, TypeError):
        return "no items with scores"
    if len(scores) != items:
        return "wrong number of items"
    if not all(type(score) in (float, int) and math.isfinite(score) for score in scores):
        return "a score is no finite number"
    if any(worse > better for better, worse in zip(scores, scores[1:], strict=False)):
        return "not sorted by score"
    return None


class Log:
    """When each of `due_s` requests was due, sent and answered, in seconds from the start, and what was wrong with it.

    A time is NaN as long as it has not come. Contents are kept and checked after the clock, since checking costs CPU
    that the next send may need.
    """

    def __init__(self, due_s: npt.NDArray[np.float64], items: Sequence[int], kept_bytes: int = KEPT_BYTES):
        self.due_s = due_s
        self._items = items  # round again when the requests are more
        self._sent_s = [math.nan] * len(due_s)
        self._answered_s = [math.nan] * len(due_s)
        self._faults: dict[int, str] = {}
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
        """Nothing more is waited for: checks what was kept, and counts what is unanswered as taken until `end_s`."""
        for request, answer in self._kept.items():
            self._check(request, answer)
        self._kept.clear()
        for request, (sent_s, answered_s) in enumerate(zip(self._sent_s, self._answered_s, strict=True)):
            if math.isnan(sent_s):
                self._faults[request] = "never sent"
            elif math.isnan(answered_s):
                self._faults[request] = "no answer in time"
        self.sent_s = np.array(self._sent_s)
        self.answered_s = np.nan_to_num(np.array(self._answered_s), nan=end_s)

    def faults(self) -> list[str | None]:
        """One a request, None for a right answer; complete after `close`."""
        return [self._faults.get(request) for request in range(len(self.due_s))]

    def _check(self, request: int, answer: Answer) -> None:
        wrong = answer.failure or fault(answer.status, answer.content, self._items[request % len(self._items)])
        if wrong:
            self._faults[request] = wrong
