"""Bodies that are no request, or only just: each gets one clear error, or a meaning that is written down."""

import time
from typing import Any

import pytest

from model.bundle.reading import Bundle
from tests.client import ask, items_of

LONG = "x" * 257


def body(user: str = '"u"', candidates: str = '["i1"]', more: str = "") -> bytes:
    return f'{{"user_id":{user},"candidates":{candidates}{more}}}'.encode()


REFUSED = {
    "an empty user": (422, body(user='""'), "user_id"),
    "a long user": (422, body(user=f'"{LONG}"'), "user_id"),
    "an empty item": (422, body(candidates='["i1",""]'), "candidates[1]"),
    "a long item": (422, body(candidates=f'["i1","{LONG}"]'), "257 characters"),
    "an empty item in an object": (422, body(candidates='["i1",{"item_id":""}]'), "candidates[1]"),
    "a long item in an object": (422, body(candidates=f'[1,{{"item_id":"{LONG}"}}]'), "1 to 256 are allowed"),
    "an object for an item": (422, body(candidates='[{"item_id":{"a":1}}]'), "candidates[0]"),
    "a list for an item": (422, body(candidates='[["i1"]]'), "candidates[0]"),
    "no candidate": (422, body(candidates="[]"), "candidates"),
    "NaN for an item": (422, body(candidates="[NaN]"), "nan"),
    "infinity for an item": (422, body(candidates="[1e999]"), "inf"),
    "NaN for a feature": (422, body(more=',"user":{"age":NaN}'), "nan"),
    "infinity for a feature": (422, body(more=',"user":{"age":-Infinity}'), "inf"),
    "an item beyond 64 bits": (422, body(candidates="[99999999999999999999]"), "9999"),
    "a user beyond 64 bits": (422, body(user="99999999999999999999"), "9999"),
    "thousands of digits": (400, body(candidates=f"[{'9' * 5000}]"), "number out of range"),
    "a lone surrogate": (400, body(user='"\\ud800"'), "hex escape"),
    "no UTF-8": (400, body().replace(b"i1", b"\xff"), "unicode"),
    "lists without end": (400, b"[" * 10_000, "recursion limit"),
    "4 MB of lists without end": (422, b"[" * 4_000_000, "within each other"),
    "4 MB of objects without end": (422, b'{"a":' * 800_000, "within each other"),
    "4 MB of lists within each other": (422, b"[" * 2_000_000 + b"]" * 2_000_000, "within each other"),
    "lists within a feature": (422, body(more=f',"context":{{"page":{"[" * 150}{"]" * 150}}}'), "page"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_gets_one_clear_error_at_once(small_bundle: Bundle, valkey_url: str, name: str) -> None:
    status, sent, words = REFUSED[name]
    begun = time.process_time()
    (answer,) = ask(small_bundle, valkey_url, sent)
    assert answer.status_code == status, answer.text
    message = answer.json()["error"]["message"]
    assert words in message and len(message) < 400
    assert time.process_time() - begun < 30


def test_the_last_of_equal_keys_counts_and_the_longest_ids_are_ranked(small_bundle: Bundle, valkey_url: str) -> None:
    (item,) = items_of(small_bundle, 1)
    longest: Any = "x" * 256
    twice = body(user='"first","user_id":"u1"', candidates=f'[{{"item_id":"{longest}","item_id":"{item}"}}]')
    once = {"user_id": "u1", "candidates": [item, longest, {"item_id": longest}]}
    last, long = ask(small_bundle, valkey_url, twice, once)
    assert [one["item_id"] for one in last.json()["items"]] == [item]
    assert sorted(one["item_id"] for one in long.json()["items"]) == sorted([item, longest, longest])
