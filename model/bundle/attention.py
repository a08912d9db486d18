"""A bundle's second graph: what its network attends to, for requests that ask for an explanation.

It lies beside the graph that serves, on the same tables, and is opened by the first request that asks: who never does
pays neither time nor memory for it. What its weights mean, and recorded ones by which it is proven, stand in the file
itself (ONNX metadata, written by model/graph/attention.py).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.bundle.layout import ATTENTION_GRAPH, GOLDEN_TOLERANCE, BundleError
from model.bundle.reading import Bundle
from model.bundle.session import Session
from model.features.encode import Inputs

OUTPUT, FACTS = "attention", "attention"  # the graph's output, and the key of its metadata
Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Facts:
    """What a network's weights (U, C, …) are of, one after the other, and what they add up to."""

    groups: bool  # the behaviours of each further group after the items'
    target: bool  # the candidate's own weight last
    normalised: bool  # a candidate's weights add up to 1 where it attends to anything
    golden: Sequence[tuple[int, list[list[float]]]]  # number of a golden request, and its first candidates' weights

    def as_text(self) -> str:
        return json.dumps(asdict(self))


class Attention:
    """The graph, ready to run, on one thread a run."""

    def __init__(self, session: Session, facts: Facts):
        self._session, self.facts = session, facts

    @classmethod
    def open(cls, bundle: Bundle, pause: Callable[[], object] = lambda: None) -> "Attention | None":
        """Proven on its recorded weights, `pause` between two; None: the bundle has none. Raises BundleError."""
        if ATTENTION_GRAPH not in bundle.manifest["files"]:
            return None
        session = bundle.session(bundle.folder / ATTENTION_GRAPH)
        try:
            told: dict[str, Any] = json.loads(session.get_modelmeta().custom_metadata_map[FACTS])
            attention = cls(session, Facts(**told))
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{bundle.folder / ATTENTION_GRAPH} does not say what it attends to: {error!r}") from None
        requests = bundle.golden()
        for number, recorded in attention.facts.golden:
            pause()
            attention._prove(bundle, number, bundle.encode_golden(requests[number]), np.asarray(recorded))
        return attention

    def weights(self, bundle: Bundle, inputs: Inputs) -> Weights:
        """Weights of encoded requests, (U, C, …), as `parts` tells them apart. Raises BundleError as `Bundle.score`."""
        return bundle.score(self._session, inputs, OUTPUT)

    def parts(self, bundle: Bundle, inputs: Inputs) -> list[int]:
        """How many slots each group of behaviours has in the weights: the items', then those of each further group."""
        groups = bundle.schema.groups if self.facts.groups else ()
        return [inputs[name].shape[1] for name in ("gap", *(f"gap_{group.object_type}" for group in groups))]

    def _prove(self, bundle: Bundle, number: int, inputs: Inputs, recorded: npt.NDArray[np.float64]) -> None:
        weights = self.weights(bundle, inputs)
        path = bundle.folder / ATTENTION_GRAPH
        slots = sum(self.parts(bundle, inputs)) + self.facts.target
        answered = weights[0, : len(recorded)]
        if answered.shape != recorded.shape or weights.shape[2] != slots or not np.isfinite(answered).all():
            raise BundleError(f"{path}: golden request {number} gets weights {weights.shape}, or some are not finite")
        difference = float((np.abs(answered - recorded) / np.maximum(1, np.abs(recorded))).max())
        if difference > GOLDEN_TOLERANCE:
            raise BundleError(f"{path}: weights of golden request {number} are {difference:.1e} off the recorded ones")
