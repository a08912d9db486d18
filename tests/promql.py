"""Reads PromQL as far as tests need it: which series a query selects, and which labels it asks of them.

Not a checker of syntax: promtool is one, and what it accepts is assumed here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

AGGREGATED_BY = {"by", "without"}
MATCHED_ON = {"on", "ignoring", "group_left", "group_right"}
WORDS = {"and", "or", "unless", "atan2", "bool", "offset", "inf", "nan"}  # neither a series nor a function

_TOKEN = re.compile(
    r"""(?P<blank>\s+|\#[^\n]*)
      | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
      | (?P<window>\[[^]]*\])
      | (?P<number>\.?\d[\w.]*)
      | (?P<name>[a-zA-Z_:][\w:]*)
      | (?P<sign>[{}(),]|[=!<>~]+|[-+*/%^@])""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Selector:
    """`name{label op "value", …}` as it stands in a query."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]

    @property
    def asked(self) -> dict[str, set[str]]:
        """Label → the values that a series must have one of; none for a pattern that is more than alternatives."""
        asked = {}
        for label, sign, value in self.matchers:
            values = set(value.split("|")) if sign in ("=~", "!~") else {value}
            asked[label] = {value for value in values if re.fullmatch(r"[\w./: -]+", value)}
        return asked


@dataclass(frozen=True)
class Grouping:
    """Labels after `by`, `on` and their like, with the selectors that they are asked of."""

    word: str
    labels: tuple[str, ...]
    of: tuple[Selector, ...]


@dataclass(frozen=True)
class Query:
    selectors: tuple[Selector, ...]
    groupings: tuple[Grouping, ...]


def read(query: str) -> Query:
    """The selectors and groupings of a query, in the order in which they stand. ValueError for what is no PromQL."""
    tokens = list(_tokens(query))
    close = _closing(tokens)
    opening = {end: start for start, end in close.items()}
    selectors: dict[int, Selector] = {}  # by place, so that a grouping finds those between its parentheses
    groupings: list[tuple[str, tuple[str, ...], int, int]] = []
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        follows = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        if text == "{":
            raise ValueError(f"series without a name: {query}")
        if kind != "name" or text.lower() in WORDS:
            at += 1
        elif text.lower() in AGGREGATED_BY | MATCHED_ON:
            end = close[at + 1] if follows == "(" else at  # group_left may stand alone
            labels = tuple(name for kind, name in tokens[at + 1 : end] if kind == "name")
            if text.lower() in MATCHED_ON:
                scope = (0, len(tokens))
            elif end + 1 < len(tokens) and tokens[end + 1][1] == "(":  # sum by (…) (…)
                scope = (end + 1, close[end + 1])
            else:  # sum (…) by (…)
                scope = (opening[at - 1], at - 1)
            groupings.append((text.lower(), labels, *scope))
            at = end + 1
        elif follows == "(" or follows.lower() in AGGREGATED_BY:  # a function
            at += 1
        elif follows == "{":
            end = tokens.index(("sign", "}"), at)
            selectors[at] = Selector(text, tuple(_matchers(tokens[at + 2 : end])))
            at = end + 1
        else:
            selectors[at] = Selector(text, ())
            at += 1
    return Query(
        tuple(selectors.values()),
        tuple(
            Grouping(word, labels, tuple(found for place, found in selectors.items() if start <= place <= end))
            for word, labels, start, end in groupings
        ),
    )


def _tokens(query: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(query):
        match = _TOKEN.match(query, at)
        if match is None:
            raise ValueError(f"no PromQL from {query[at:]!r} on")
        assert match.lastgroup
        if match.lastgroup != "blank":
            yield match.lastgroup, match.group()
        at = match.end()


def _closing(tokens: list[tuple[str, str]]) -> dict[int, int]:
    """Place of each opening parenthesis → place of the one that closes it."""
    waiting, pairs = [], {}
    for place, token in enumerate(tokens):
        if token == ("sign", "("):
            waiting.append(place)
        elif token == ("sign", ")"):
            pairs[waiting.pop()] = place
    if waiting:
        raise ValueError("a parenthesis stays open")
    return pairs


def _matchers(tokens: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    kept = [text for _, text in tokens if text != ","]
    for label, sign, value in zip(kept[::3], kept[1::3], kept[2::3], strict=True):
        yield label, sign, value[1:-1]
