"""Answers held to the OpenAPI document of the service that gave them."""

from typing import Any

import httpx
from jsonschema import Draft202012Validator


def problems(document: Any, schema: Any, value: Any) -> list[str]:
    """What is wrong with a value by a schema of the document."""
    validator = Draft202012Validator({**schema, "components": document["components"]})
    return [f"{list(error.absolute_path)}: {error.message[:300]}" for error in validator.iter_errors(value)]


def check(document: Any, answer: httpx.Response) -> None:
    """The answer is as its operation documents it: status, headers, media type and body."""
    path = answer.request.url.path
    path = path if path in document["paths"] else "/users/{user_id}"
    operation = document["paths"][path][answer.request.method.lower()]
    assert str(answer.status_code) in operation["responses"], (path, answer.status_code)
    response = operation["responses"][str(answer.status_code)]
    for name in response["headers"]:
        assert name in answer.headers, name
    media = answer.headers["content-type"].partition(";")[0]
    assert media in response["content"], media
    value = answer.json() if media == "application/json" else answer.text
    assert not problems(document, response["content"][media]["schema"], value), answer.text[:500]
