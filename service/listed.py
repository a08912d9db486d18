"""What settings of more than a word may hold: origins, proxies, a path; budgets."""

import ipaddress
import math
import re

ANY = "*"
ORIGIN = re.compile(r"https?://(?:[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::\d{1,5})?")
# Without an empty part: `//name/` would be another host's address in a link or a Location.
PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+")
LONGEST_PREFIX = 200
MOST_BUDGETS, SHORTEST_MS, LONGEST_MS = 20, 0.1, 60_000  # each is a bucket more of every route and outcome

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parts(value: object) -> object:
    """The parts of a text with commas between; anything else as it is."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def origins(values: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError where one is none as browsers write it."""
    if ANY in values and len(values) > 1:
        raise ValueError("* allows every origin: alone, or origins without it")
    for value in values:
        if value != ANY and not ORIGIN.fullmatch(value):
            raise ValueError(
                f"{value!r} is no origin as browsers send it: https://shop.example or http://localhost:3000 in small "
                "letters, without a path or a slash at the end; several with commas between, or * for all"
            )
    return values


def networks(values: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError where one is neither an address nor a network."""
    for value in values:
        try:
            ipaddress.ip_network(value)
        except ValueError as error:
            raise ValueError(f"{error}; addresses and networks with commas between: 10.0.0.7,10.1.0.0/16") from None
    return values


def prefix(value: str) -> str:
    """The same without a slash at its end. Raises ValueError where it is no prefix of a path."""
    value = value.rstrip("/")
    if value and (len(value) > LONGEST_PREFIX or not PREFIX.fullmatch(value)):
        raise ValueError(
            "a path is allowed that begins with one slash and has no empty part, like /ranker or /shop/ranker; "
            f"letters, digits and ._~- in up to {LONGEST_PREFIX} characters"
        )
    return value


def budgets(value: object) -> object:
    """Of a text with commas between: each once, ascending. Anything else as it is. Raises ValueError."""
    if not isinstance(value, str):
        return value
    allowed = f"up to {MOST_BUDGETS} numbers from {SHORTEST_MS} to {LONGEST_MS} with commas between are allowed"
    try:
        found = tuple(sorted({float(part) for part in value.split(",")})) if value.strip() else ()
    except ValueError:
        raise ValueError(allowed) from None
    in_range = all(math.isfinite(budget) and SHORTEST_MS <= budget <= LONGEST_MS for budget in found)
    if not in_range or len(found) > MOST_BUDGETS:
        raise ValueError(allowed)
    return found
