"""experiments.toml: which variants there are, who gets them, and when one is taken out.

salt = "2026-11 bst"                # names the experiment: another salt is another draw of users, and counts anew
start = 2026-11-27T08:00:00Z        # before it and after `end` all are answered by RANKER_BUNDLE
end = 2026-12-11T08:00:00Z          # optional
control = "wdl"                     # what others are compared to; the first variant where it is left out
click = "click"                     # the event that counts, and how long after the impression it may come
window_s = 1800

[[variants]]                        # two to six; without `bundle` and `builtin` what RANKER_BUNDLE leads to
name = "wdl"
share = 0.5

[[variants]]
name = "bst"
bundle = "bundles/bst"              # a bundle, or a folder with `current`; relative to this file
share = 0.5

[[shadows]]                         # scores what was shown, after the answer; nobody sees it
name = "din"
bundle = "bundles/din"
share = 0.1                         # of users

[catch]                             # a variant beyond one of these, of its last minute in a worker, gets no users
errors = 0.02
degraded = 0.2
p99_ms = 80
requests = 200                      # fewer in that minute say nothing
"""

import tomllib
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import xxhash
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

NAME = r"^[A-Za-z0-9_-]{1,32}$"  # of a variant: a label of metrics, and a part of request ids
MOST = 6  # variants, and shadows: metrics have rows for twice as many, as one file follows another
SUM = 1e-6  # that shares may be off from 1


def _named(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path without the character NUL is needed")
    return path


Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Folder = Annotated[Path, AfterValidator(_named)]
Limit = Annotated[float, Field(gt=0, strict=True)]


class PlanError(ValueError):
    """experiments.toml cannot be used; the message names the file, the key, what it holds and what is allowed."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Variant(_Part):
    """One model that a share of users sees."""

    name: str = Field(pattern=NAME)
    share: Share
    bundle: Folder | None = None
    builtin: Literal["popularity", "random"] | None = None

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if self.bundle is not None and self.builtin is not None:
            raise ValueError("bundle and builtin given, one of them is allowed")
        return self


class Shadow(_Part):
    """One model that scores what a share of users was shown."""

    name: str = Field(pattern=NAME)
    bundle: Folder
    share: Share


class Catch(_Part):
    """Beyond which a variant is taken out."""

    errors: Limit | None = None
    degraded: Limit | None = None
    p99_ms: Limit | None = None
    requests: int = Field(200, ge=1, strict=True)

    @cached_property
    def limited(self) -> bool:
        """Whether there is any limit to be beyond."""
        return any(limit is not None for limit in (self.errors, self.degraded, self.p99_ms))


class Plan(_Part):
    """What one file says."""

    salt: str = Field(min_length=1, max_length=200)
    start: datetime
    end: datetime | None = None
    control: str = ""
    click: str = Field("click", min_length=1, max_length=64)
    window_s: float = Field(1800, gt=0, le=7 * 86400, strict=True)
    variants: list[Variant] = Field(min_length=2, max_length=MOST)
    shadows: list[Shadow] = Field(default_factory=list, max_length=MOST)
    catch: Catch = Field(default_factory=lambda: Catch(requests=200))

    @field_validator("start", "end", mode="before")
    @classmethod
    def _in_a_zone(cls, time: Any) -> Any:
        """Neither a day, nor a number of seconds or milliseconds since whenever."""
        if time is not None and (not isinstance(time, datetime) or time.tzinfo is None):
            raise ValueError("a time with its zone is needed, like 2026-11-27T08:00:00Z")
        return time

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [variant.name for variant in self.variants] + [shadow.name for shadow in self.shadows]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"name: {', '.join(twice)} given twice; variants and shadows need names of their own")
        total = sum(variant.share for variant in self.variants)
        if abs(total - 1) > SUM:
            raise ValueError(f"share: those of the variants sum to {total:g}, 1 is needed")
        if self.control and self.control not in (variant.name for variant in self.variants):
            raise ValueError(f"control: {self.control!r} given, a variant's name is allowed")
        if self.end is not None and self.end <= self.start:
            raise ValueError("end: it lies before start")
        return self

    @cached_property
    def id(self) -> str:
        """Of the experiment in the store and in request ids: a draw of users, as the salt makes it."""
        return xxhash.xxh3_64_hexdigest(self.salt.encode())

    @cached_property
    def drawn_by(self) -> str:
        """The shares by which users are drawn, as the store keeps them: where they change, a comparison ends."""
        return ", ".join(sorted(f"{one.name} {one.share:.6g}" for one in self.variants if one.share))

    @property
    def base(self) -> str:
        """The variant that others are compared to, and that users of one that was caught get."""
        return self.control or self.variants[0].name

    @property
    def bundles(self) -> list[tuple[str, Path]]:
        """Those that it names, by the variant or shadow."""
        named = [(variant.name, variant.bundle) for variant in self.variants if variant.bundle is not None]
        return named + [(shadow.name, shadow.bundle) for shadow in self.shadows]

    def runs(self, now_ms: int) -> bool:
        return self.begin_ms <= now_ms and (self.end_ms is None or now_ms < self.end_ms)

    @cached_property
    def begin_ms(self) -> int:
        return int(self.start.timestamp() * 1000)

    @cached_property
    def end_ms(self) -> int | None:
        return None if self.end is None else int(self.end.timestamp() * 1000)


def parsed(text: str, path: Path) -> Plan:
    """The plan in a text that stood in `path`, its bundles' paths absolute. Raises PlanError."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of a number with thousands of digits, and of nested lists
        raise PlanError(f"{path}: {error}") from None
    try:
        plan = Plan.model_validate(content)
    except ValidationError as error:
        raise PlanError(f"{path}: {'; '.join(map(_problem, error.errors(include_url=False)))}") from None
    folder = path.absolute().parent

    def placed(one: Any) -> Any:
        return one if one.bundle is None else one.model_copy(update={"bundle": folder / one.bundle})

    return plan.model_copy(update={"variants": [*map(placed, plan.variants)], "shadows": [*map(placed, plan.shadows)]})


def _problem(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    told = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("missing", "value_error"):
        return f"{where}: {told}" if where else told
    if problem["type"] == "extra_forbidden":
        return f"{where}: no such key"
    return f"{where}: {told} (given {str(problem['input'])[:60]!r})"
