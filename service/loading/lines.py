"""Users from JSON lines, a user a line.

{"user_id": "u1", "user": {"age": 30, "tags": ["a", "b"]}, "behaviours": [["click", "item", "i1", 1511544070000]]}
"""

from collections.abc import Generator, Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from service.loading.user import BackfillError, Fields, User


class _Line(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    user_id: str | int
    user: dict[str, Any] | None = None
    behaviours: list[tuple[str, str, str | int, int]] | None = None


def users_of_lines(
    lines: Iterable[tuple[int, str | bytes]], source: str, fields: Fields, shift_ms: int = 0
) -> Generator[User, None, None]:
    """The users of numbered lines; `shift_ms` is added to every time. Raises BackfillError, which names the line."""
    for number, text in lines:
        where = f"{source}:{number}"
        try:
            line = _Line.model_validate_json(text)
        except ValidationError as error:
            raise BackfillError(f"{where}: {_problem(error)}") from None
        behaviours, at = [], "user_id: "
        try:
            user_id = fields.user_id(line.user_id)
            at = "user."
            profile = fields.profile(line.user or {})
            for place, behaviour in enumerate(line.behaviours or ()):
                at = f"behaviours.{place}: "
                behaviours.append(fields.behaviour(*behaviour))
        except ValueError as error:
            raise BackfillError(f"{where}: {at}{error}") from None
        if shift_ms:
            behaviours = [b._replace(timestamp=b.timestamp + shift_ms) for b in behaviours]
        yield User(where, user_id, profile, behaviours)


def _problem(error: ValidationError) -> str:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("str", "int")]  # which of `str | int` says nothing
    if not place:
        return first["msg"]
    at, value = ".".join(place), f"{first['input']!r:.60}"
    if first["type"] in ("missing", "extra_forbidden") or first["input"] is None:
        return f"{at}: {first['msg']}"
    if place[0] == "behaviours" and place[2:] == ["3"]:
        return f"{at}: {value} given, milliseconds since 1970 as an integer are allowed"
    if place == ["user_id"] or place[2:] == ["2"]:
        return f"{at}: {value} given, a string or an integer is allowed"
    return f"{at}: {first['msg']}, given {value}"
