"""Whatever a caller sends, the answer is ranked items or an error that says why: never a 500, never a traceback.

And it is as the OpenAPI document has it.
"""

import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.bundle.reading import Bundle
from service.app import create_app
from service.settings import Settings
from tests.client import ask
from tests.documented import check

NAMES = ["item_id", "category_id", "age", "gender", "position", "page", "match_type", "user_id", "x"]
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["i1", "u1", 10**30]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
bodies = st.fixed_dictionaries(
    {
        "user_id": anything | st.just("u1"),
        "candidates": anything | st.lists(anything, max_size=4) | st.just(["i1", "i2"]),
    },
    optional={
        "context": anything | st.dictionaries(st.sampled_from(NAMES), anything, max_size=2),
        "user": anything | st.dictionaries(st.sampled_from(NAMES), anything, max_size=2),
        "timestamp": anything | st.just(1_757_900_000_000),
        "top_k": anything,
        "more": anything,
    },
)
sent = st.binary(max_size=20) | (bodies | anything).map(lambda body: json.dumps(body).encode())


@pytest.fixture(scope="module")
def document(small_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return create_app(Settings(bundle=small_bundle.folder), tmp_path_factory.mktemp("counts")).openapi()


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.lists(sent, min_size=10, max_size=40))
def test_no_body_brings_the_service_down(
    small_bundle: Bundle, valkey_url: str, document: Any, requests: list[bytes]
) -> None:
    for body, answer in zip(requests, ask(small_bundle, valkey_url, *requests), strict=True):
        check(document, answer)
        found: dict[str, Any] = answer.json()
        if answer.status_code == 200:
            assert all(math.isfinite(item["score"]) for item in found["items"])
        else:
            assert answer.status_code in (400, 422), (body, answer.text)
            assert found["error"]["message"] and len(answer.text) < 2000 and "Traceback" not in answer.text
