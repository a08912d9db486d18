"""What the journal is told of an answered request."""

from functools import partial

from model.features.kinds import ITEM_ID
from model.servicelog.records import BUILTIN, Impression
from service.call import Call
from service.journal.items import Items
from service.journal.journal import Journal
from service.rank import Ranked


def tell(call: Call, ranked: Ranked, journal: Journal) -> None:
    """Hands over how its record is made: of 500 items that takes 0.1 ms, which the answer need not wait for."""
    if not journal.on:
        return
    drawn = call.arm is not None or ranked.request_id not in (None, call.id)  # the user's variant was
    took_us = round(call.spent_s() * 1e6)
    record = partial(_impression, ranked, ranked.request_id or call.id, drawn=drawn, took_us=took_us)
    journal.shown(str(ranked.used.user_id), record)


def _impression(ranked: Ranked, request_id: str, *, drawn: bool, took_us: int) -> Impression:
    used, served = ranked.used, ranked.served
    request, stored = used.request, used.stored
    features = {}
    if dict in set(map(type, request.candidates)):
        for place, at in enumerate(ranked.order.tolist()):
            candidate = request.candidates[at]
            if type(candidate) is dict and len(candidate) > 1:
                features[place] = {name: value for name, value in candidate.items() if name != ITEM_ID}
    return Impression(
        request_id=request_id,
        user_id=str(used.user_id),
        now=used.at,
        read_us=used.read_us,
        replay=request.timestamp is not None,
        model=served.name,
        version=served.version,
        variant=served.variant,
        precision=served.precision if served.builtin is None else BUILTIN,
        catalog=served.catalog.sha256 or "",
        statistics=served.encoder.counts.sha256,
        items=Items(ranked.items, served.encoder.schema.item_id.type, ranked.propensities, features),
        context=request.context,
        user=request.user,
        profile=stored.profile,
        behaviours=stored.behaviours,
        degraded=ranked.degraded,
        took_us=took_us,
        shown_today=stored.shown_today,
        named=int(served.variant is not None and request.timestamp is None and not drawn),
    )
