"""Whatever a caller sends, the answer is ranked items or an error that says why: never a 500, never a traceback."""

import json
import math
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.bundle.reading import Bundle
from tests.client import ask

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


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(sent, min_size=10, max_size=40))
def test_no_body_brings_the_service_down(small_bundle: Bundle, valkey_url: str, requests: list[bytes]) -> None:
    for body, answer in zip(requests, ask(small_bundle, valkey_url, *requests), strict=True):
        found: dict[str, Any] = answer.json()
        if answer.status_code == 200:
            assert all(math.isfinite(item["score"]) for item in found["items"])
        else:
            assert answer.status_code in (400, 422), (body, answer.text)
            assert found["error"]["message"] and len(answer.text) < 2000 and "Traceback" not in answer.text
