"""What explains a model's scores: its fp32 graph, and the graph of what its network attends to.

Both are opened by the first request that asks for an explanation, in a thread; who never asks pays nothing. The fp32
graph is the session that serves, unless int8 is served.
"""

import logging
import threading
import time
from dataclasses import dataclass

from model.bundle.attention import Attention
from model.bundle.layout import BundleError
from model.bundle.reading import Bundle
from model.bundle.session import Session
from service.telemetry.logs import event

log = logging.getLogger("ranker")

REST_S = 0.001  # between two golden requests: other threads want the interpreter
NO_GRAPH = (
    "without attention: the bundle has no attention.onnx. Where its network attends to behaviours, "
    "python -m model.export --explain adds it"
)
OTHER_GRAPH = "int8 answers; all that explains is of the fp32 graph"


@dataclass(frozen=True)
class Explainer:
    """It holds no bundle, whose catalogue may be replaced meanwhile."""

    session: Session
    precision: str  # of that session's graph
    attention: Attention | None
    note: str | None  # what the explanation does without, and what it is of where that is not what answers


class Explaining:
    """Where a model's explainer stands, once somebody has asked. Safe with several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.opened: Explainer | None = None

    def open(self, bundle: Bundle, session: Session, precision: str) -> Explainer:
        """Opened and proven at the first call, which blocks; `session` answers, in that precision. Never raises.

        What is broken is told in `note` and in the log, and done without.
        """
        with self._lock:
            if self.opened is None:
                self.opened = _open(bundle, session, precision)
            return self.opened


def _open(bundle: Bundle, session: Session, precision: str) -> Explainer:
    notes: list[str] = []
    if precision != "fp32":
        try:
            whole = bundle.session()
            bundle.replay_golden(whole, pause=_rest)
            session, precision = whole, "fp32"
            notes.append(OTHER_GRAPH)
        except (BundleError, OSError) as error:
            notes.append(_told(bundle, "explained by the int8 graph, since the fp32 graph cannot be opened", error))
    attention = None
    try:
        attention = Attention.open(bundle, _rest)
        if attention is None:
            notes.append(NO_GRAPH)
    except (BundleError, OSError) as error:
        notes.append(_told(bundle, "without attention, whose graph cannot be opened", error))
    return Explainer(session, precision, attention, "; ".join(notes) or None)


def _told(bundle: Bundle, what: str, error: Exception) -> str:
    """For the answer; the cause, which names files, stands in the log."""
    log.warning("explanations are %s: %s", what, error, extra=event("explain", str(bundle.folder)))
    return f"{what}: the service's log says why"


def _rest() -> None:
    time.sleep(REST_S)
