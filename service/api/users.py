"""/users/{user_id}: a profile set, everything known, everything forgotten."""

import time
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request, Response
from pydantic import ValidationError

from model.features.ids import BadValue, shown
from model.servicelog.records import Forgotten, Profile
from service.api.answers import json_response
from service.api.bodies import body_of
from service.api.endpoint import Parts
from service.call import Call
from service.errors import BROKEN, InvalidRequest, JournalFailed, MalformedBody, StoreFailed, UnknownUser
from service.journal.journal import JournalFull
from service.loading.user import Fields
from service.store.history import BrokenValue, StoreUnavailable
from service.wire.feedback import UserProfile

MOST_PROFILE = 64 * 1024  # bytes of a body; every ranking of the user reads the profile, and journals it

Answer = TypeVar("Answer")


async def put_user(call: Call, request: Request, parts: Parts) -> Response:
    body = await body_of(call, request, min(parts.settings.max_body_bytes, MOST_PROFILE), parts.metrics, parts.gate)
    fields = Fields(parts.live.current.encoder.schema)
    user_id = _user_id(request, fields)
    profile = _profile(body, fields)
    received_us = _now_us()
    await _asked(parts.history.replace(user_id, profile, _timeout_s(parts)))
    await _journalled(Profile(user_id, profile, True, received_us, _now_us()), parts)
    return json_response({"request_id": call.id, "user_id": user_id})


async def get_user(call: Call, request: Request, parts: Parts) -> Response:
    user_id = _user_id(request, Fields(parts.live.current.encoder.schema))
    known = await _asked(parts.history.known(user_id, _timeout_s(parts)))
    if not (known.profile or known.cut_until or known.shown):
        raise UnknownUser(f"{shown(user_id)}: the store holds nothing of this user")
    of_kind: dict[tuple[str, str], list[tuple[str, int]]] = {kind: [] for kind in known.cut_until}
    for action, object_type, object_id, timestamp in known.behaviours:
        of_kind[action, object_type].append((object_id, timestamp))
    history = [
        {
            "action": action,
            "object_type": object_type,
            "cut_until": known.cut_until[action, object_type] or None,
            "behaviours": behaviours,
        }
        for (action, object_type), behaviours in sorted(of_kind.items())
    ]
    told = {"user": known.profile, "history": history, "shown": known.shown, "expires_in_s": known.expires_in_s}
    return json_response({"request_id": call.id, "user_id": user_id, **told})


async def delete_user(call: Call, request: Request, parts: Parts) -> Response:
    user_id = _user_id(request, Fields(parts.live.current.encoder.schema))
    received_us = _now_us()
    await _asked(parts.history.forget(user_id, _timeout_s(parts)))
    await _journalled(Forgotten(user_id, received_us, _now_us()), parts)
    return json_response({"request_id": call.id, "user_id": user_id})


def _user_id(request: Request, fields: Fields) -> str:
    """Of the path, as the store has it. Raises InvalidRequest."""
    try:
        return fields.user_id(request.path_params["user_id"])
    except BadValue as error:
        raise InvalidRequest(f"user_id: {error}") from None


def _profile(body: bytes, fields: Fields) -> dict[str, str]:
    """Raises MalformedBody, InvalidRequest."""
    try:
        named = UserProfile.model_validate_json(body).user
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        if problem["type"] == "json_invalid":
            raise MalformedBody(problem["msg"]) from None
        where = ".".join(str(part) for part in problem["loc"]) or "body"
        raise InvalidRequest(f'{where[:60]}: {problem["msg"]}; {{"user": {{feature: value, …}}}} is allowed') from None
    try:
        profile = fields.profile(named)
    except BadValue as error:
        raise InvalidRequest(f"user.{error}") from None
    if fields.left_out:
        allowed = ", ".join(sorted(fields.features or ())) or "none"
        raise InvalidRequest(f"user.{min(fields.left_out)[:60]}: no such feature of a user; allowed: {allowed}")
    return profile


async def _asked(asking: Awaitable[Answer]) -> Answer:
    """Raises StoreFailed."""
    try:
        return await asking
    except BrokenValue as error:
        raise StoreFailed(BROKEN) from error
    except StoreUnavailable as error:
        raise StoreFailed("the store failed: send it again") from error


async def _journalled(record: Profile | Forgotten, parts: Parts) -> None:
    """Raises JournalFailed."""
    try:
        await parts.journal.append([record])
    except JournalFull as error:
        raise JournalFailed(f"the store has it, the journal failed: send it again; {error}") from error


def _timeout_s(parts: Parts) -> float:
    return parts.settings.feedback_timeout_ms / 1000


def _now_us() -> int:
    return time.time_ns() // 1000
