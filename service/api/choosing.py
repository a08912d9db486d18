"""Which model a request gets where an experiment runs."""

import time

from fastapi import Request

from service.api.endpoint import Parts
from service.call import Call
from service.errors import InvalidRequest
from service.rank import checked_user
from service.scoring.served import Served, Taken
from service.variants.variants import HEADER, UnknownVariant
from service.wire.shapes import RankRequest


def chosen(call: Call, request: Request, ranking: RankRequest, served: Served, parts: Parts) -> Taken | None:
    """None: no experiment runs, and `served` answers. Raises InvalidRequest."""
    if parts.variants is None or parts.variants.experiment is None:
        return None
    user_id, named = str(checked_user(ranking, served)), request.headers.get(HEADER)
    try:
        return parts.variants.take(call, user_id, ranking.timestamp is None, named, time.time_ns() // 1_000_000)
    except UnknownVariant as error:
        raise InvalidRequest(f"{HEADER}: {error}") from None
