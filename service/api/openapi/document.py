"""The OpenAPI document: the table of routes, the shapes of wire/, and what the bundle that answers adds to them.

Names of schemas and operations are stable, since generated clients are built on them. Features, ids and limits are of
the bundle and the settings, and documented without being closed: a client made for one bundle works with the next.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import WithDefaultSchema

from service.api.endpoint import Endpoint
from service.api.openapi.examples import Examples
from service.api.openapi.responses import HEADERS, PARAMETERS, error_responses, ok_response
from service.models.description import described
from service.scoring.served import Live, Served
from service.settings import Settings
from service.wire import values
from service.wire.feedback import UserProfile
from service.wire.ids import LONGEST_ID
from service.wire.refusals import SHAPES, ErrorResponse
from service.wire.shapes import RankRequest

API_VERSION = "1.2.0"  # docs/api.md, "Clients", says what raises it
TAGS = {
    "ranking": "Candidates in, scores out.",
    "users": "What is known of users, and what they did.",
    "experiments": "Which variant of the model earns more clicks.",
    "model": "What answers.",
    "operations": "For probes and dashboards.",
    "admin": "What an operator orders.",
}
REF = "#/components/schemas/"
_USER_ID = {
    "name": "user_id",
    "in": "path",
    "required": True,
    "description": "Percent-encoded, a slash too (%2F).",
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_ID},
}


class Document:
    """The document for the model that answers; made again once another one does.

    `needs_key`: whether a scope asks for a key here.
    """

    def __init__(self, endpoints: Sequence[Endpoint], live: Live, settings: Settings, needs_key: Callable[[str], bool]):
        self._endpoints = [endpoint for endpoint in endpoints if endpoint.summary is not None]
        self._live, self._settings, self._needs_key = live, settings, needs_key
        self._lock = threading.Lock()
        self._made: tuple[tuple[Path, str] | None, dict[str, Any]] = (None, {})  # it keeps no model that is replaced

    def current(self) -> dict[str, Any]:
        """Not to be changed. Making it takes some ten milliseconds: nothing for the event loop."""
        served = self._live.current
        with self._lock:
            known = served.bundle.folder, served.version
            if self._made[0] != known:
                self._made = known, self._document(served)
            return self._made[1]

    def _document(self, served: Served) -> dict[str, Any]:
        types, schemas = _shapes(self._endpoints)
        _add_bundle(schemas, served, self._settings)
        examples = Examples(served, described(served, self._settings, ()))
        paths: dict[str, dict[str, Any]] = {}
        for endpoint in self._endpoints:
            paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = self._operation(endpoint, types, examples)
        keyed = any(self._needs_key(endpoint.scope) for endpoint in self._endpoints)
        scheme = {"type": "http", "scheme": "bearer", "description": "An API key."}
        keys: dict[str, Any] = {"securitySchemes": {"key": scheme}} if keyed else {}
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "bst-ranker",
                "version": API_VERSION,
                "description": "Ranks candidate items for a user by predicted click probability.",
                "x-bundle": {"name": served.name, "version": served.version},
            },
            "tags": [{"name": name, "description": about} for name, about in TAGS.items()],
            "paths": paths,
            "components": {"schemas": dict(sorted(schemas.items())), "headers": HEADERS, "parameters": PARAMETERS}
            | keys,
        }

    def _operation(self, endpoint: Endpoint, types: Mapping[Any, Any], examples: Examples) -> dict[str, Any]:
        operation: dict[str, Any] = {
            "operationId": endpoint.operation,
            "tags": [endpoint.tag],
            "summary": endpoint.summary,
            "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in PARAMETERS],
        }
        if "{" in endpoint.path:
            operation["parameters"].append(_USER_ID)
        if endpoint.description:
            operation["description"] = endpoint.description
        if endpoint.body is not None:
            operation["requestBody"] = {
                "required": True,
                "description": f"At most {self._settings.max_body_bytes} bytes.",
                "content": {
                    "application/json": {
                        "schema": self._limited(types[endpoint, "validation"]),
                        "examples": examples.bodies(endpoint.body),
                    }
                },
            }
        if self._needs_key(endpoint.scope):
            operation["security"] = [{"key": []}]
        answer = types.get((endpoint, "serialization"))
        operation["responses"] = {
            "200": ok_response(endpoint, answer, examples.answer(endpoint.answer)),
            **error_responses(endpoint, f"{REF}Error"),
        }
        return operation

    def _limited(self, body: dict[str, Any]) -> dict[str, Any]:
        """A batch's body within its limits; those of a request stand in its own schema."""
        if body.get("type") != "array":
            return body
        return body | {"minItems": 1, "maxItems": self._settings.max_batch_requests}


class _Plain(GenerateJsonSchema):
    """Without what generators of clients take for more than it says.

    Of a property's title they make a name. One with a default, even null, counts as always there: a request that leaves
    it out would not compile in TypeScript.
    """

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def _shapes(endpoints: Sequence[Endpoint]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The schema of each endpoint's body and answer, which refer to the named ones; and those."""
    inputs: list[tuple[Any, Any, TypeAdapter[Any]]] = []
    for endpoint in endpoints:
        if endpoint.body is not None:
            inputs.append((endpoint, "validation", TypeAdapter(endpoint.body)))
        if endpoint.answer is not None:
            inputs.append((endpoint, "serialization", TypeAdapter(endpoint.answer)))
    inputs += [(shape, "serialization", TypeAdapter(shape)) for shape in (*SHAPES.values(), ErrorResponse)]
    types, named = TypeAdapter.json_schemas(inputs, ref_template=f"{REF}{{model}}", schema_generator=_Plain)
    for about in (*types.values(), named):
        about.pop("title", None)
    return dict(types), named["$defs"]


def _add_bundle(schemas: dict[str, Any], served: Served, settings: Settings) -> None:
    """Puts the features that the bundle knows, and the limits that are set, where requests have room for them."""
    schema = served.encoder.schema
    request = schemas[RankRequest.__name__]["properties"]
    text = request["user_id"]["anyOf"][0]  # of an id, with the bounds of its length
    item_id, user_id = (
        [text if way == values.TEXT else way for way in values.ids(id_type)]
        for id_type in (schema.item_id.type, schema.user_id)
    )
    of_candidate = values.names(schema, "item", "context")
    about = f"An item with features of its own, or of its place. This bundle knows {of_candidate}; others are refused."
    candidate = {"description": about, "required": ["item_id"], **values.features(schema, "item", "context")}
    candidate["properties"] = {"item_id": {"anyOf": item_id}, **candidate["properties"]}
    schemas["Candidate"] = candidate
    request["candidates"] |= {
        "items": {"anyOf": [*item_id, {"$ref": f"{REF}Candidate"}]},
        "maxItems": settings.max_candidates,
    }
    for field, name, side in (("context", "Context", "context"), ("user", "User", "user")):
        known = f"This bundle knows {values.names(schema, side)}; others are refused."  # type: ignore[arg-type]
        schemas[name] = {"description": known, **values.features(schema, side)}  # type: ignore[arg-type]
        request[field] = {"$ref": f"{REF}{name}", "description": request[field]["description"]}
    request["user_id"]["anyOf"] = user_id
    profile = schemas[UserProfile.__name__]["properties"]
    profile["user"] = {"$ref": f"{REF}User", "description": profile["user"]["description"]}
