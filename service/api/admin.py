"""POST /admin/model: what an operator orders of all workers. The parent does it; here it is read and answered."""

import asyncio
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from service.api.answers import json_response
from service.api.endpoint import Parts
from service.call import Call
from service.errors import KINDS, BodyTooLarge, InvalidRequest, MalformedBody, RankerError, WrongMediaType

MOST_BYTES = 64 * 1024  # of the body: a path and a hash
KIND = {error.kind: error for error in KINDS}
URL = ("http://", "https://", "s3://")


class ModelOrder(BaseModel):
    """Either `bundle` or `rollback`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    bundle: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = Field(
        None, description="A bundle's folder or archive on the service's disk, or an http, https or s3 URL."
    )
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{64}$")] | None = Field(
        None, description="Of the archive, or of a folder's manifest.json. A URL needs it."
    )
    rollback: bool = Field(False, description="Go back to the bundle that answered before.")


class OfWorker(BaseModel):
    worker: int
    name: str
    version: str


class ModelSwapped(BaseModel):
    """What answers now."""

    folder: str
    name: str
    version: str
    workers: list[OfWorker]
    seconds: float
    note: str | None = Field(description="Why the next start would serve another one, if it would.")


async def post_model(call: Call, request: Request, parts: Parts) -> Response:
    """It takes as long as the swap: seconds, of a large bundle more."""
    order = _order(request.headers.get("content-type", ""), await _read(request))
    result = await parts.orders.ask(order.model_dump(exclude_defaults=True))
    if result.status != 200:
        raise KIND.get(result.body["kind"], RankerError)(result.body["message"])
    workers = await asyncio.to_thread(parts.metrics.reader.models)
    return json_response({**result.body, "workers": workers})


def _order(content_type: str, body: bytes) -> ModelOrder:
    """Raises WrongMediaType, MalformedBody, InvalidRequest."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        told = content_type or "no content-type"
        raise WrongMediaType(f"{told} was sent; content-type: application/json is needed")
    try:
        order = ModelOrder.model_validate_json(body)
    except ValidationError as error:
        problem: Any = error.errors()[0]
        if problem["type"] == "json_invalid":
            raise MalformedBody(problem["msg"]) from None
        where = ".".join(str(part) for part in problem["loc"]) or "body"
        allowed = ", ".join(ModelOrder.model_fields)
        raise InvalidRequest(f"{where}: {problem['msg']}; allowed: {allowed}") from None
    if (order.bundle is None) == (not order.rollback):
        raise InvalidRequest('either "bundle": a path or URL, or "rollback": true')
    if order.rollback and order.sha256 is not None:
        raise InvalidRequest("sha256: going back takes none; it belongs to a bundle")
    if order.bundle is not None and order.bundle.lower().startswith(URL) and order.sha256 is None:
        raise InvalidRequest("sha256: missing; what comes from a URL is compared with it (sha256sum FILE)")
    return order


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise BodyTooLarge(f"more than {MOST_BYTES} bytes, at most {MOST_BYTES}")
    return bytes(body)
