"""A caller in Python, by the generated client alone: checked by mypy --strict, then run. No cast, no Any."""

import json
import sys

from bst_ranker_client import Client
from bst_ranker_client.api.model import get_model
from bst_ranker_client.api.operations import get_metrics
from bst_ranker_client.api.ranking import rank, rank_batch
from bst_ranker_client.models import (
    BatchError,
    Candidate,
    Context,
    Error422,
    ModelDescription,
    RankRequest,
    RankResponse,
    User,
)


def ranked(answer: object) -> RankResponse:
    assert isinstance(answer, RankResponse), answer
    return answer


def refused_by_types() -> None:
    """Never called: where mypy finds nothing wrong here, the comment itself is the error."""
    RankRequest("u720")  # type: ignore[call-arg]  # candidates are needed
    RankRequest("u720", ["i586"], top_k="3")  # type: ignore[arg-type]  # a number is


def main(url: str, pages: list[dict[str, object]]) -> dict[str, object]:
    with Client(base_url=url, raise_on_unexpected_status=True) as client:
        candidates: list[Candidate | int | str] = ["i586", "i390", Candidate("i425", category_id="c9"), "i321"]
        readme = ranked(rank.sync(client=client, body=RankRequest("u720", candidates, top_k=3)))

        shown = [rank.sync_detailed(client=client, body=RankRequest.from_dict(page)).status_code for page in pages]

        context, user = Context(page=1), User(age="25-29", city=None)
        request = RankRequest("u720", ["i586", Candidate("i390", position=2)], context=context, user=user)
        features = ranked(rank.sync(client=client, body=request, x_request_id="python-1"))

        other = Candidate("i1")
        other["of_another_bundle"] = [1, "a"]
        wrong = rank.sync(client=client, body=RankRequest("u720", [other]))
        assert isinstance(wrong, Error422), wrong

        batch = rank_batch.sync(client=client, body=[RankRequest("u720", ["i586", "i390"]), RankRequest("u720", [])])
        assert isinstance(batch, list), batch

        model = get_model.sync(client=client)
        assert isinstance(model, ModelDescription), model
        metrics = get_metrics.sync_detailed(client=client)

    return {
        "readme": {"status": 200, "items": [item.item_id for item in readme.items], "kind": None},
        "features": {"status": 200, "items": [item.item_id for item in features.items], "kind": None},
        "shown": shown,
        "request_id": features.request_id,
        "wrong": {"status": 422, "items": [], "kind": wrong.error.kind},
        "batch": [one.error.kind if isinstance(one, BatchError) else len(one.items) for one in batch],
        "model": {
            "version": model.version,
            "defaults": [feature.name for feature in model.features if feature.default is not None],
            "attributes": model.catalog.attributes,
            "limit": model.limits.max_candidates,
        },
        "metrics": b"ranker_requests_total" in metrics.content,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
