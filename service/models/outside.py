"""From outside: waits until a running service answers with a version in all its workers."""

import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from service.models.installing.fetch import shown

EVERY_S, ANSWER_S = 0.25, 10.0


class NotFollowed(Exception):
    """The service did not take it; the message says what it says."""


def follow(url: str, key: str | None, version: str, folder: str, wait_s: float) -> int:
    """How many workers answer with it. Raises NotFollowed where it was refused, or after `wait_s`."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise NotFollowed(f"{url} is no http or https URL")
    until, begun_ms, seen = time.monotonic() + wait_s, time.time_ns() // 1_000_000 - int(1000 * ANSWER_S), "no answer"
    while True:
        try:
            model = _model(url, key)
            workers = [worker["version"] for worker in model["workers"]]
            if workers and set(workers) == {version}:
                return len(workers)
            refused = model.get("refused")
            if refused and refused["bundle"].endswith(f"/{version}") and refused["at"] >= begun_ms:
                raise NotFollowed(f"{shown(url)} refused it: {refused['problem']}")
            seen = f"its workers answer with {', '.join(sorted(set(workers))) or 'none'}"
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise NotFollowed(f"{shown(url)}/model is answered {error.code}: --key must have scope rank") from None
            seen = f"/model is answered {error.code}"
        except (OSError, ValueError, KeyError, TypeError) as error:  # it starts, or is none of ours
            seen = f"/model is not to be had: {getattr(error, 'reason', error)}"
        if time.monotonic() >= until:
            raise NotFollowed(f"{shown(url)} did not take it within {wait_s:g} s: {seen}; see its log")
        time.sleep(EVERY_S)


def _model(url: str, key: str | None) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{url.rstrip('/')}/model", headers=headers)
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
        model: dict[str, Any] = json.load(answer)
        return model
