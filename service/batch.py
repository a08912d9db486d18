"""A call of /rank/batch: many requests, taken chunk by chunk.

A call holds its body, where in it each request lies, and how large each is. The requests of one chunk at a time become
objects: are read from the store, encoded, scored, sorted and written. So what a call costs in memory is its body, a
chunk and its answer, and between two slices of its work other requests of this worker come.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace

from model.features.wanted import Wanted
from service.call import Call
from service.errors import (
    DeadlineExceeded,
    InvalidRequest,
    MalformedBody,
    RankerError,
    TooManyCandidates,
    TooManyRequests,
)
from service.explore import Explore
from service.rank import Ranked, rank_many
from service.scoring.served import Served, Taken
from service.store.history import OPEN, Asked, Histories, Stored
from service.wire.pieces import PIECE, SPACE, TooManyParts, parsed, parts
from service.wire.shapes import RankRequest, explained, parse, parse_large
from service.wire.turns import Turns

USERS = 8  # of a chunk: unpacking 100 behaviours holds the loop for 0.1 ms, and those of a reply come at once
CANDIDATES = 2000  # of a chunk, unless one request has more
MOST_EXPLAINED = 1000  # items of all requests of a call: their weights make an answer long
MESSAGE, MESSAGES = 400, 64 * 1024  # characters of one error's message, and of all of a call
ALLOWED = "body: a list of one or more requests is allowed, each as /rank takes it"
CUT = "this answer's messages are cut: send this request to /rank to see what is wrong"


class Batch:
    """The requests of one body."""

    def __init__(self, body: bytes, places: Sequence[tuple[int, int]], turns: Turns):
        self._body, self._places, self._turns = body, places, turns
        self._sizes: list[int] = []  # candidates of each
        self._errors: dict[int, RankerError] = {}

    def __len__(self) -> int:
        return len(self._places)

    @classmethod
    async def of(cls, body: bytes, most: int, turns: Turns) -> "Batch":
        """The body's requests, none of them looked at. Raises MalformedBody, InvalidRequest, TooManyRequests."""
        if body[:PIECE].lstrip(SPACE)[:1] != b"[":
            if len(body) <= PIECE:
                await parsed(body, turns)
            raise InvalidRequest(ALLOWED)
        try:
            begins, ends = await parts(body, turns, most)
        except TooManyParts:
            raise TooManyRequests(f"more than {most} requests, at most {most} in one call") from None
        if not len(begins):
            raise InvalidRequest(ALLOWED)
        return cls(body, list(zip(begins.tolist(), ends.tolist(), strict=True)), turns)

    @property
    def candidates(self) -> int:
        """Of all requests that are valid; once they are measured."""
        return sum(self._sizes)

    async def measure(self, max_candidates: int, most: int) -> None:
        """Checks each request, and counts its candidates. An invalid one keeps its error.

        Raises MalformedBody, and TooManyCandidates for more than `most` in all or too many to explain.
        """
        in_all, explained_in_all = 0, 0
        for at in range(len(self)):
            await self._turns.next()
            try:
                request = await self.request(at, max_candidates)
                self._sizes.append(len(request.candidates))
                explained_in_all += explained(request)
            except MalformedBody as error:
                raise MalformedBody(f"request {at}, bytes {self._places[at]}: {error}") from None
            except RankerError as error:
                self._errors[at] = error
                self._sizes.append(0)
            in_all += self._sizes[-1]
            if in_all > most:
                so_far = "" if at + 1 == len(self) else f" in the first {at + 1} requests"
                raise TooManyCandidates(f"{in_all} candidates{so_far}, at most {most} in all")
            if explained_in_all > MOST_EXPLAINED:
                told = f"{explained_in_all} items to explain in the first {at + 1} requests"
                raise TooManyCandidates(f"{told}, at most {MOST_EXPLAINED} in all; a smaller top_k is allowed")

    async def request(self, at: int, max_candidates: int) -> RankRequest:
        """Request number `at`. Raises RankerError."""
        begin, end = self._places[at]
        if end - begin > PIECE:
            return await parse_large(self._body[begin:end], max_candidates, self._turns)
        return parse(self._body[begin:end], max_candidates)

    async def chunks(self, max_candidates: int) -> AsyncIterator[list[RankRequest | RankerError]]:
        """Requests and errors in their order, a chunk at a time."""
        for begin, end in self._chunks():
            chunk: list[RankRequest | RankerError] = []
            for at in range(begin, end):
                await self._turns.next()
                chunk.append(self._errors.get(at) or await self.request(at, max_candidates))
            yield chunk

    def _chunks(self) -> Iterator[tuple[int, int]]:
        begin, candidates = 0, 0
        for at, size in enumerate(self._sizes):
            if at - begin == USERS or (candidates + size > CANDIDATES and candidates):
                yield begin, at
                begin, candidates = at, 0
            candidates += size
        yield begin, len(self)


async def rank_batch(
    call: Call,
    batch: Batch,
    max_candidates: int,
    now: int,
    history: Histories,
    served: Served,
    turns: Turns,
    explore: Explore | None = None,
    choose: Callable[[RankRequest], Taken | None] = lambda request: None,
) -> AsyncIterator[list[Ranked | RankerError]]:
    """Answers and errors in their order, a chunk at a time, each of which is over before the next is read.

    What the call's deadline finds not begun gets DeadlineExceeded. It is raised where nothing is begun by then;
    ClientGone is raised at any time.
    """
    patient = _Patient(history, turns)
    late: DeadlineExceeded | None = None
    begun = False
    async for requests in batch.chunks(max_candidates):
        if late is None:
            try:
                call.check("history")
            except DeadlineExceeded as error:
                if not begun:
                    raise
                late = error
        begun = True
        if late is not None:
            yield [one if isinstance(one, RankerError) else late for one in requests]
        else:
            yield await _by_model(call, requests, now, patient, served, turns, explore, choose)


async def _by_model(
    call: Call,
    requests: Sequence[RankRequest | RankerError],
    now: int,
    history: Histories,
    served: Served,
    turns: Turns,
    explore: Explore | None,
    choose: Callable[[RankRequest], Taken | None],
) -> list[Ranked | RankerError]:
    """As `rank_many`, of requests that may each be another model's; `served` answers those for whom none is chosen."""
    answers: dict[int, Ranked | RankerError] = {}
    taken: dict[int, Taken] = {}
    groups: dict[Served, list[int]] = {}
    for at, request in enumerate(requests):
        model = served
        if not isinstance(request, RankerError):
            try:
                if (one := choose(request)) is not None:
                    taken[at], model = one, one.served
            except RankerError as error:
                answers[at] = error
                continue
        groups.setdefault(model, []).append(at)
    for model, ats in groups.items():
        ranked = await rank_many(call, [requests[at] for at in ats], now, history, model, turns, explore)
        answers |= zip(ats, ranked, strict=True)
    for at, one in taken.items():
        answer = answers[at]
        if isinstance(answer, Ranked):
            answers[at] = replace(answer, request_id=one.request_id)
            if one.shown is not None:
                one.shown(str(answer.used.user_id), len(answer.items))
    return [answers[at] for at in range(len(requests))]


class _Patient:
    """A history (history.Histories) for one call of many reads: what could not be had is asked for once more.

    A batch has the time that a request beside it has not. Once asking again was in vain it is not tried again.
    """

    def __init__(self, history: Histories, turns: Turns):
        self._history, self._turns, self._hopes = history, turns, True

    async def read(self, users: Sequence[Asked], wanted: Wanted, timeout_s: float | None = None) -> list[Stored]:
        async with self._turns.store:
            stored = await self._history.read(users, wanted, timeout_s)
            again = [at for at, one in enumerate(stored) if one.missing not in (None, OPEN)]
            if again and self._hopes:
                second = await self._history.read([users[at] for at in again], wanted, timeout_s)
                self._hopes = any(one.missing is None for one in second)
                for at, one in zip(again, second, strict=True):
                    stored[at] = one
        return stored


class Messages:
    """What an answer tells of its errors: each message short, and all of them bounded."""

    def __init__(self) -> None:
        self._left = MESSAGES

    def of(self, error: RankerError) -> str:
        text = str(error)
        text = text if len(text) <= MESSAGE else text[: MESSAGE - 3] + "..."
        self._left -= len(text)
        return text if self._left >= 0 or isinstance(error, DeadlineExceeded) else CUT
