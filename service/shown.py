"""What the journal is told of an answer: what was shown, and all that it was made of."""

from model.features.kinds import ITEM_ID
from service.journal.lines import Showing
from service.rank import Ranked
from service.scoring.served import Served


def showing(answer: bytes, ranked: Ranked, served: Served) -> Showing:
    """`answer`: the JSON that the caller gets."""
    ready, request = ranked.ready, ranked.ready.request
    returned = [request.candidates[place] for place in ranked.order.tolist()]
    return Showing(
        answer=answer,
        user_id=str(ready.user_id),
        now=ready.at,
        read_us=ready.read_us,
        replay=request.timestamp is not None,
        precision=served.precision,
        catalog=served.catalog.sha256 or "",
        statistics=served.encoder.counts.sha256,
        context=request.context,
        user=request.user,
        profile=ready.stored.profile,
        behaviours=ready.stored.behaviours,
        features={
            str(place): {name: value for name, value in one.items() if name != ITEM_ID}
            for place, one in enumerate(returned)
            if isinstance(one, dict) and len(one) > 1
        },
        propensities=ranked.propensities,
    )
