"""GET /experiments: what came of each variant so far; POST /admin/experiments: one that was taken out comes back."""

import asyncio
import time

from fastapi import Request, Response

from service.api.admin import order_of
from service.api.answers import json_response
from service.api.bodies import body_of
from service.api.endpoint import Parts
from service.call import Call
from service.errors import InvalidRequest, StoreFailed
from service.store.history import StoreUnavailable
from service.variants.told import told
from service.wire.experiments import VariantLetIn, VariantOrder

MOST_BYTES = 4096
NONE_RUNS = "no experiment runs: RANKER_EXPERIMENTS names its file"


async def get_experiments(call: Call, request: Request, parts: Parts) -> Response:
    """It brings this worker's own counts to the store first; others bring theirs within a second."""
    variants = parts.variants
    if variants is None:
        return json_response({"experiment": None, "refused": None})
    problem = variants.following.refused
    refused = None if problem is None else problem._asdict()
    experiment = variants.experiment
    if experiment is None:
        return json_response({"experiment": None, "refused": refused})
    try:
        totals = await variants.totals(experiment)
    except StoreUnavailable as error:
        raise StoreFailed("the store that keeps the counts does not answer") from error
    answer = await asyncio.to_thread(told, experiment, totals, time.time_ns() // 1_000_000)
    return json_response({"experiment": answer.model_dump(), "refused": refused})


async def post_experiments(call: Call, request: Request, parts: Parts) -> Response:
    body = await body_of(call, request, MOST_BYTES, parts.metrics, parts.gate)
    order = order_of(VariantOrder, request.headers.get("content-type", ""), body)
    experiment = None if parts.variants is None else parts.variants.experiment
    if experiment is None:
        raise InvalidRequest(NONE_RUNS)
    if order.let_in not in experiment.arms:
        raise InvalidRequest(f"let_in: {order.let_in!r} given, allowed: {', '.join(experiment.arms)}")
    try:
        was = await experiment.counting.let_in(order.let_in)
    except StoreUnavailable as error:
        raise StoreFailed("the store that keeps who was taken out does not answer") from error
    return json_response(VariantLetIn(variant=order.let_in, was_caught=was).model_dump())
