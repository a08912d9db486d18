"""Which of a bundle's graphs answers: one rule for the service and for evaluation, so that served is evaluated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from model.bundle.layout import BundleError
from model.bundle.reading import Bundle
from model.bundle.session import Session

Precision = Literal["auto", "fp32", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Chosen:
    """A graph that is ready to run."""

    precision: str  # fp32 or int8
    session: Session
    reason: str | None = None  # why `auto` came to fp32


def choose(bundle: Bundle, precision: Precision = "auto", pause: Callable[[], object] = lambda: None) -> Chosen:
    """`auto`: int8 where it can be had, else fp32 and why. An int8 graph is proven on the golden requests.

    Raises BundleError where int8 is asked for and cannot be had.
    """
    reason = None
    if precision != "fp32":
        try:
            return Chosen("int8", bundle.int8_session(pause))
        except BundleError as error:
            if precision == "int8":
                raise
            reason = str(error)
    return Chosen("fp32", bundle.session(), reason)
