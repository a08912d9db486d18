"""Requests and answers that go with the bundle at hand, for the documentation: its ids, features and golden scores."""

from typing import Any

from model.features.kinds import ITEM_ID
from model.servicelog.records import IMPRESSION
from service.models.examples import example
from service.scoring.served import Served
from service.wire.feedback import FeedbackEvent, FeedbackTaken, UserProfile, UserWritten
from service.wire.model import ModelDescription
from service.wire.orders import ModelOrder
from service.wire.shapes import Liveness, RankRequest, RankResponse, Readiness, Timings

REQUEST_ID = "0af7651916cd43dd8448eb211c80319c"
SHOWN = 3  # ranked items, and ids to try


class Examples:
    def __init__(self, served: Served, model: ModelDescription):
        self._served, self._model = served, model
        self._golden = next(request for request in served.bundle.golden() if request["candidates"])

    def bodies(self, body: Any) -> dict[str, Any]:
        """Bodies of a type, by what they show; each is answered with 200 where the deadline allows."""
        request = self._simple()
        one = {
            "simple": request,
            "features": self._with_features(),
            "replay": request | self._then(),
            "explain": request | {"explain": True},
        }
        if body is RankRequest:
            return {name: {"summary": _SUMMARY[name], "value": value} for name, value in one.items()}
        if body == list[RankRequest]:
            return {"batch": {"summary": "Two requests", "value": [request, one["features"]]}}
        if body == FeedbackEvent | list[FeedbackEvent]:
            return {
                "click": {"summary": "One event", "value": self._event()},
                "list": {"summary": "Several", "value": [self._event() | {"event": IMPRESSION}, self._event()]},
            }
        if body is UserProfile:
            return {"profile": {"summary": "Features as the model knows them", "value": {"user": {}}}}
        if body is ModelOrder:
            return {"rollback": {"summary": "Go back to the bundle before", "value": {"rollback": True}}}
        return {}

    def answer(self, answer: Any) -> Any:
        """An answer of a type, None where there is no example of it."""
        if isinstance(answer, type) and issubclass(answer, ModelDescription):
            short = self._model.as_json()
            return short | {"samples": {name: ids[:SHOWN] for name, ids in short["samples"].items()}}
        ranked = self._ranked()
        of_type = {
            RankResponse: ranked,
            FeedbackTaken: {"request_id": REQUEST_ID, "accepted": 2, "refused": []},
            UserWritten: {"request_id": REQUEST_ID, "user_id": str(self._simple()["user_id"])},
            Liveness: {"status": "live"},
            Readiness: {"status": "ready", "model": self._served.name, "version": self._served.version},
        }
        if answer in of_type:
            return of_type[answer]
        return [ranked] if getattr(answer, "__origin__", None) is list else None

    def _event(self) -> dict[str, Any]:
        request, history = self._simple(), self._served.encoder.schema.history
        event = {"event": history.actions[0], "user_id": request["user_id"], ITEM_ID: request["candidates"][0]}
        return event | {"timestamp": self._golden["now"], "request_id": REQUEST_ID}

    def _simple(self) -> dict[str, Any]:
        return example(self._model.samples.model_dump(), 10) | {"top_k": SHOWN}

    def _with_features(self) -> dict[str, Any]:
        """The context's neutral values, once for the request, and once more for the first candidate alone."""
        request = self._simple()
        context = {feature.name: feature.default for feature in self._model.features if feature.default is not None}
        first, *others = request["candidates"]
        return request | {"candidates": [{ITEM_ID: first, **context}, *others], "context": context}

    def _then(self) -> dict[str, Any]:
        return {"timestamp": self._golden["now"]}

    def _ranked(self) -> dict[str, Any]:
        """A golden request's recorded scores; the timings only show the form."""
        best = sorted(zip(self._golden["scores"], self._golden["candidates"], strict=True), key=lambda one: -one[0])
        ranked = {
            "request_id": REQUEST_ID,
            "model": self._served.name,
            "version": self._served.version,
            "variant": self._served.variant,
            "items": [{"item_id": item, "score": score} for score, item in best[:SHOWN]],
            "history_length": min(len(self._golden["behaviours"]), self._model.history.length),
            "unknown_items": 0,
            "new_user": False,
            "degraded": [],
            "timings_ms": {name: 1.0 for name in Timings.model_fields},
        }
        return RankResponse.model_validate(ranked).model_dump(mode="json", exclude_unset=True)


_SUMMARY = {
    "simple": "Item ids alone",
    "features": "Features of the request and of one candidate",
    "replay": "As if asked at another time",
    "explain": "Why these scores",
}
