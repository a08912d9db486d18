"""What was seen of one fault: how many requests came to what, and which promises did not hold."""

from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.faults.client import Answer
from tests.faults.users import Users

IN_TIME_S = 1.0  # an answer that takes longer is counted as late
TURNED_AWAY = (503, 504)  # 5xx that say "no" in order
FEW = 0.01  # share of requests that a busy machine may refuse
SHOWN = 5  # wrong answers that are quoted


class LeftOut(Exception):
    """The fault cannot be made here; the message says why."""


@dataclass
class Held:
    """Counts of one fault: every request sent ends in one of answered, refused, hung_up, wrong, lost and failed."""

    name: str
    sent: int = 0
    answered: int = 0  # 200 and right, degraded or not
    in_time: int = 0  # of these, within IN_TIME_S
    degraded: Counter[str] = field(default_factory=Counter)  # of these, by reason
    refused: Counter[int] = field(default_factory=Counter)  # by status
    hung_up: int = 0  # by us
    wrong: int = 0  # 200, and not this user's answer; or kept where it does not belong
    lost_writes: int = 0  # acknowledged, and not there afterwards
    lost: int = 0  # no answer, though we waited
    failed: int = 0  # 5xx other than 503 and 504
    seconds: list[float] = field(default_factory=list)  # of each answer, as the caller saw it
    longest_s: float = 0.0  # that a caller waited for an answer of any kind
    store_ms: list[float] = field(default_factory=list)  # of each answer, what the service says it spent on the store
    figures: dict[str, float] = field(default_factory=dict)  # more, by name
    broken: list[str] = field(default_factory=list)  # promises, each with what was seen
    quoted: list[str] = field(default_factory=list)  # the first wrong answers

    def judge(self, users: Users, user_id: str, answer: Answer, seconds: float) -> list[str] | None:
        """Counts an answer of /rank; gives its `degraded`, or None where there is no ranking."""
        self.longest_s = max(self.longest_s, seconds)
        if answer.status == 200:
            return self.judge_ranked(users, user_id, answer.json(), seconds)
        self.turned_away(answer)
        return None

    def judge_ranked(self, users: Users, user_id: str, ranked: Any, seconds: float) -> list[str] | None:
        wrong = users.wrong(user_id, ranked) if "items" in ranked else f"no ranking but {str(ranked)[:200]}"
        if not self.took(seconds, wrong and f"{user_id}: {wrong}"):
            return None
        self.degraded.update(ranked["degraded"])
        self.store_ms.append(ranked["timings_ms"]["history"])
        degraded: list[str] = ranked["degraded"]
        return degraded

    def took(self, seconds: float, wrong: str | None) -> bool:
        """Counts an answer that came after so many seconds, or what is wrong with it; whether it is right."""
        self.longest_s = max(self.longest_s, seconds)
        if wrong is not None:
            self.wrong += 1
            self.quote(wrong)
            return False
        self.answered += 1
        self.in_time += seconds <= IN_TIME_S
        self.seconds.append(seconds)
        return True

    def turned_away(self, answer: Answer) -> None:
        """Counts an answer that is no ranking."""
        if answer.status >= 500 and answer.status not in TURNED_AWAY:
            self.failed += 1
            self.quote(f"{answer.status}: {answer.body[:300].decode(errors='replace')}")
        else:
            self.refused[answer.status] += 1
            if answer.status not in (429, *TURNED_AWAY):
                self.quote(f"{answer.status}: {answer.body[:300].decode(errors='replace')}")

    def lose(self, why: object) -> None:
        self.lost += 1
        self.quote(str(why))

    def add(self, more: "Held") -> None:
        """Counts what `more` counted."""
        for name in ("sent", "answered", "in_time", "hung_up", "wrong", "lost_writes", "lost", "failed"):
            setattr(self, name, getattr(self, name) + getattr(more, name))
        self.longest_s = max(self.longest_s, more.longest_s)
        self.degraded.update(more.degraded)
        self.refused.update(more.refused)
        self.seconds += more.seconds
        self.store_ms += more.store_ms
        for text in more.quoted:
            self.quote(text)

    def quote(self, text: str) -> None:
        if len(self.quoted) < SHOWN:
            self.quoted.append(text)

    def promise(self, holds: object, promise: str, seen: object) -> None:
        """Notes a promise that does not hold, with what was seen instead."""
        if not holds:
            self.broken.append(f"{self.name}: promised: {promise}; seen: {seen}")

    def promise_answers(self, *, refused: tuple[int, ...] = (), valid: bool = True, lost: int = 0) -> None:
        """What every fault promises: no answer is wrong, lost or a failure, no write is lost; hardly any is refused.

        `refused`: statuses that may be given to any number; others that say "not now" to a few, where requests are
        `valid`. What is not may get those too, as often as it likes. `lost`: so many may be, whose worker was killed.
        """
        quoted = f" ({' | '.join(self.quoted)})" if self.quoted else ""
        self.promise(not self.wrong, "no wrong answer", f"{self.wrong} of {self.sent}{quoted}")
        self.promise(not self.lost_writes, "what was acknowledged is there", f"{self.lost_writes} are not{quoted}")
        self.promise(not self.failed, "no 5xx but 503 and 504", f"{self.failed} of {self.sent}{quoted}")
        kept = "an answer to each who waits" + (f" but {lost}, whose worker is killed" if lost else "")
        self.promise(self.lost <= lost, kept, f"{self.lost} of {self.sent} lost{quoted}")
        others = {status: count for status, count in self.refused.items() if status not in refused}
        strange = {status: count for status, count in others.items() if status not in (429, 503, 504)}
        self.promise(not strange, "valid requests are not refused as invalid", f"{strange}{quoted}")
        few = not valid or sum(others.values()) <= max(1, FEW * self.sent)
        self.promise(few, f"at most {FEW:.0%} refused", f"{others} of {self.sent}")

    @property
    def ill(self) -> int:
        return self.wrong + self.lost_writes + self.failed + self.lost

    def report(self) -> dict[str, Any]:
        """For the JSON line."""
        times = {"p50_ms": [1000 * seconds for seconds in self.seconds], "store_p50_ms": self.store_ms}
        ms = {name: median(values) for name, values in times.items() if values}
        counts = {
            "sent": self.sent,
            "answered": self.answered,
            "in_time": self.in_time,
            "degraded": dict(self.degraded),
            "refused": {str(status): count for status, count in self.refused.items()},
            "hung_up": self.hung_up,
            "wrong": self.wrong,
            "lost_writes": self.lost_writes,
            "lost": self.lost,
            "server_errors": self.failed,
        }
        return counts | {name: round(value, 3) for name, value in (ms | self.figures).items()} | {"broken": self.broken}
