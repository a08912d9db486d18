"""POST /admin/model: what an operator orders of all workers. The parent does it; here it is read and answered."""

import asyncio
from typing import Any, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ValidationError

from service.api.answers import json_response
from service.api.bodies import body_of
from service.api.endpoint import Parts
from service.call import Call
from service.errors import KINDS, InvalidRequest, MalformedBody, RankerError, WrongMediaType
from service.wire.orders import ModelOrder

MOST_BYTES = 64 * 1024  # of the body: a path and a hash
KIND = {error.kind: error for error in KINDS}
URL = ("http://", "https://", "s3://")
Shape = TypeVar("Shape", bound=BaseModel)


async def post_model(call: Call, request: Request, parts: Parts) -> Response:
    """It takes as long as the swap: seconds, of a large bundle more."""
    order = _order(
        request.headers.get("content-type", ""), await body_of(call, request, MOST_BYTES, parts.metrics, parts.gate)
    )
    result = await parts.orders.ask(order.model_dump(exclude_defaults=True))
    if result.status != 200:
        raise KIND.get(result.body["kind"], RankerError)(result.body["message"])
    workers = await asyncio.to_thread(parts.metrics.reader.models)
    return json_response({**result.body, "workers": workers})


def order_of(shape: type[Shape], content_type: str, body: bytes) -> Shape:
    """What an operator sends. Raises WrongMediaType (a form of another site's page has none of ours), MalformedBody,
    InvalidRequest."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        told = content_type or "no content-type"
        raise WrongMediaType(f"{told} was sent; content-type: application/json is needed")
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        problem: Any = error.errors()[0]
        if problem["type"] == "json_invalid":
            raise MalformedBody(problem["msg"]) from None
        where = ".".join(str(part) for part in problem["loc"]) or "body"
        allowed = ", ".join(shape.model_fields)
        raise InvalidRequest(f"{where}: {problem['msg']}; allowed: {allowed}") from None


def _order(content_type: str, body: bytes) -> ModelOrder:
    """Raises as `order_of`."""
    order = order_of(ModelOrder, content_type, body)
    if (order.bundle is None) == (not order.rollback):
        raise InvalidRequest('either "bundle": a path or URL, or "rollback": true')
    if order.rollback and order.sha256 is not None:
        raise InvalidRequest("sha256: going back takes none; it belongs to a bundle")
    if order.bundle is not None and order.bundle.lower().startswith(URL) and order.sha256 is None:
        raise InvalidRequest("sha256: missing; what comes from a URL is compared with it (sha256sum FILE)")
    return order
