"""The model that answers, as one value, and the place where the current one stands.

A request takes the current one once, before anything else, and asks nothing of the model in another way. So a new
catalogue or a new model never shows in the middle of a request, whatever it waits for meanwhile.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from model.bundle.layout import BundleError
from model.bundle.precision import Precision, choose
from model.bundle.reading import Bundle
from model.bundle.session import Session
from model.features.catalog import Catalog
from model.features.counts import Counts
from model.features.encode import Encoder, Inputs
from model.features.wanted import Wanted
from service.call import Call
from service.pause import Pause
from service.scoring.admission import Work
from service.scoring.explaining import Explaining
from service.scoring.lanes import Scores
from service.scoring.scorer import Scorer
from service.telemetry.logs import event

log = logging.getLogger("ranker")

WARM_CANDIDATES = (1, 100, 500)
WARM_RUNS = 3
# HTTP, JSON, the store's reply, the way to a thread and back, of which warm runs know nothing. A rough figure, which
# what is learnt puts right: on two cores of a Xeon the event loop alone took half of it beside the encoding.
CALL_S = 0.001


Builtin = Callable[[Encoder, Inputs], Scores]  # scores (U, C) without a network


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A bundle ready to answer. Immutable: newer catalogue or counts make another one, which shares the session."""

    bundle: Bundle
    encoder: Encoder  # made ready for the catalogue
    catalog: Catalog
    session: Session
    precision: str  # fp32 or int8
    name: str
    version: str
    scorer: Scorer  # whose threads run the graph; shared by all that is served
    wanted: Wanted  # what it reads of a user
    work: Work
    variant: str | None = None
    slot: int | None = None  # its row in the metrics
    builtin: Builtin | None = None  # scores in the stead of the graph
    explaining: Explaining = field(default_factory=Explaining)  # shared, as the session is

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        scorer: Scorer,
        precision: Precision = "auto",
        pause: Callable[[], object] = lambda: None,
    ) -> "Served":
        """Proven on the golden requests, and warm; `pause` is called between steps. Raises BundleError.

        It raises too where int8 is asked for and cannot be had; `auto` then says why, and takes fp32.
        """
        chosen = choose(bundle, precision, pause)
        if chosen.reason:
            log.info("serving fp32: %s", chosen.reason, extra=event("precision", str(bundle.folder)))
        session = chosen.session
        if chosen.precision == "fp32":  # an int8 graph was proven when its session was made
            bundle.replay_golden(session, pause=pause)
        encoder = bundle.encoder.ready_for(bundle.catalog, pause)
        wanted, work = Wanted.of(encoder.schema), _warmed(bundle, session, pause)
        named = (bundle.name, bundle.version)
        return cls(bundle, encoder, bundle.catalog, session, chosen.precision, *named, scorer, wanted, work)

    def with_catalog(self, catalog: Catalog) -> "Served":
        """The same with another catalogue; nothing of it keeps this one's, and its disk space.

        In another thread than requests', which it lets have the interpreter; so `with_counts`.
        """
        bundle = self.bundle.with_catalog(catalog)
        return replace(self, bundle=bundle, catalog=catalog, encoder=self.encoder.ready_for(catalog, Pause()))

    def with_counts(self, counts: Counts) -> "Served":
        """The same with other counts, likewise."""
        bundle = self.bundle.with_counts(counts)
        return replace(self, bundle=bundle, encoder=bundle.encoder.ready_for(self.catalog, Pause()))

    @property
    def counted_until_ms(self) -> int | None:
        """Until when what its statistics say was counted; None: it has none."""
        counts = self.encoder.counts
        return counts.until_ms if isinstance(counts, Counts) else None

    def run(self, inputs: Inputs) -> Scores:
        """Scores (U, C) of encoded requests, in this thread."""
        if self.builtin is not None:
            return self.builtin(self.encoder, inputs)
        return self.bundle.score(self.session, inputs)

    async def score(self, inputs: Inputs, call: Call) -> Scores:
        """Scores (C,) of one request; the seconds in `queue` and `score` go into its stages.

        Raises DeadlineExceeded or ClientGone where it would have been begun in vain.
        """
        return await self.scorer.score(self.run, inputs, call)

    async def score_many(self, requests: Sequence[Inputs], call: Call) -> list[Scores]:
        """Scores (C,) of each request of a batch, which lets single requests pass; raises as `score`."""
        return await self.scorer.score_many(self.run, requests, call)


class Live:
    """Which model answers now. `current` is read from the event loop and set from any thread."""

    def __init__(self, served: Served, keep: int):
        """`keep`: behaviours of each kind that the store keeps. Raises BundleError where the model reads more."""
        check_kept(served, served.wanted, keep)
        self.current = served
        self._keep = keep
        self._lock = threading.RLock()
        self._followers: tuple[Callable[[Served], None], ...] = ()

    def take(self, call: Call) -> Served:
        """The model that answers this call, whose name the call bears from now on."""
        return bear(call, self.current)

    def follow(self, follower: Callable[[Served], None]) -> Callable[[], None]:
        """`follower` is told of every model that answers from now on, by whoever sets it; gives what ends that."""
        self._followers = (*self._followers, follower)

        def leave() -> None:
            self._followers = tuple(one for one in self._followers if one is not follower)

        return leave

    def swap(self, served: Served) -> Served:
        """Requests that begin from now on are answered by `served`; returns the one before.

        Raises BundleError, and leaves all as it is, where `served` reads more behaviours than the store keeps.
        """
        check_kept(served, served.wanted, self._keep)
        with self._lock:
            before = self.current
            self._set(served)
        return before

    def change(self, bundle: Bundle, changed: Callable[[Served], Served]) -> bool:
        """Takes over newer files of `bundle`, which `changed` puts in; False where another bundle answers by now."""
        with self._lock:
            if self.current.bundle.folder != bundle.folder:
                return False
            self._set(changed(self.current))
        return True

    def _set(self, served: Served) -> None:
        self.current = served
        for follower in self._followers:
            follower(served)


class Taken(NamedTuple):
    """Which model answers one request of an experiment, under which id, and who is told what came of it."""

    served: Served
    request_id: str
    shown: Callable[[str, int], None] | None = None  # to a user, so many items; None: it counts for nothing
    answered: Callable[[str, float], None] | None = None  # with an outcome, after so many seconds


def bear(call: Call, served: Served) -> Served:
    """The call bears the name of the model that answers it."""
    call.model, call.version, call.variant, call.slot = served.name, served.version, served.variant, served.slot
    return served


def _warmed(bundle: Bundle, session: Session, pause: Callable[[], object]) -> Work:
    """Runs the graph until it is warm; what requests cost, by the quickest runs of each length."""
    request: dict[str, Any] = bundle.golden()[0]
    spent_s = []
    for count in WARM_CANDIDATES:
        shown = request | {"candidates": (request["candidates"] * count)[:count]}
        runs_s = []
        for _ in range(WARM_RUNS):
            pause()
            begun = time.perf_counter()
            bundle.score(session, bundle.encode_golden(shown))
            runs_s.append(time.perf_counter() - begun)
        spent_s.append(min(runs_s))
    one_s, most_s = spent_s[0], max(spent_s[0], spent_s[-1])
    candidate_s = max(1e-9, (most_s - one_s) / (WARM_CANDIDATES[-1] - WARM_CANDIDATES[0]))
    return Work(max(1e-6, one_s - candidate_s), candidate_s, CALL_S)


def check_kept(model: Bundle | Served, wanted: Wanted, keep: int) -> None:
    """Raises BundleError where a model reads more behaviours than the `keep` of each kind that the store keeps.

    Its histories would be cut short without a word, and served scores be others than the evaluated ones.
    """
    longest, what = max((wanted.longest, "behaviours"), (wanted.impressions, "impressions"))
    if keep < longest:
        raise BundleError(
            f"{model.name} {model.version} reads the newest {longest} {what} (`length` in its "
            f"features.toml), RANKER_HISTORY_KEEP={keep} keeps fewer of each kind: set RANKER_HISTORY_KEEP to "
            f"{longest} or more"
        )
