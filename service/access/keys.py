"""An API key and the lines that tell of keys: `NAME SCOPES SECRET`, in a file or in the environment.

SECRET is the key itself, or `sha256:` and the hash of it in hex: whoever reads a file of hashes cannot ask by it. A key
is long and random, so a plain hash is enough; a slow one, as passwords need, would cost each request milliseconds.
A message about a line never repeats a word of it, since any word may be the key.
"""

import hashlib
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

OPEN = "open"  # in the place of a scope: no key is needed
RANK, WRITE, ADMIN, METRICS = SCOPES = ("rank", "write", "admin", "metrics")
HASHED = "sha256:"
SHORTEST, LONGEST = 16, 256  # characters of a key: shorter ones can be guessed
MOST_KEYS = 100  # each costs every request a comparison, 0.1 µs
NAMES = "up to 64 letters, digits, and _ . -"
LISTED = f"{', '.join(SCOPES)} are allowed, with commas and no blanks between"
MAKE = "python -m service.keys NAME SCOPES makes a key"

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TOKEN = re.compile(rf"[A-Za-z0-9._~+/-]{{{SHORTEST},{LONGEST}}}=*")  # what RFC 6750 lets stand behind `Bearer`
_DIGEST = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)


class KeysError(ValueError):
    """Keys that cannot be used; the message says where and what is allowed."""


@dataclass(frozen=True)
class Key:
    """`name` is what logs show."""

    name: str
    scopes: frozenset[str]
    digest: bytes

    def line(self) -> str:
        return f"{self.name} {','.join(sorted(self.scopes))} {HASHED}{self.digest.hex()}"


def digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def made(name: str, scopes: str) -> tuple[str, str]:
    """A new key, and the line that makes it known without containing it. Raises KeysError."""
    if not _NAME.fullmatch(name):
        raise KeysError(f"NAME {name!r} given; {NAMES} are allowed")
    if not set(scopes.split(",")) <= set(SCOPES):
        raise KeysError(f"SCOPES {scopes!r} given; {LISTED}")
    token = "rk_" + secrets.token_urlsafe(32)  # the prefix lets scanners of repositories find it
    return token, f"{name} {scopes} {HASHED}{digest(token.encode()).hex()}"


def parsed(text: str, entry: str) -> tuple[Key, ...]:
    """The keys of a text of lines or, as `entry` says, of entries, which `;` parts too. Raises KeysError."""
    keys: list[Key] = []
    for number, line in _entries(text, "\n" if entry == "line" else "[;\n]"):
        try:
            key = _key(line)
            if key.name in {other.name for other in keys}:
                raise KeysError(f"{key.name!r} is there already; each key needs a name of its own")
            if key.digest in {other.digest for other in keys}:
                raise KeysError("the same key is there already under another name")
        except KeysError as error:
            raise KeysError(f"{entry} {number}: {error}") from None
        keys.append(key)
    if not keys:
        raise KeysError(f"no key in it; {entry}s of NAME SCOPES SECRET are needed ({MAKE})")
    if len(keys) > MOST_KEYS:
        raise KeysError(f"{len(keys)} keys, at most {MOST_KEYS}")
    return tuple(keys)


def _entries(text: str, separator: str) -> Iterator[tuple[int, str]]:
    """Numbered, without those that are empty or a comment."""
    for number, words in enumerate(re.split(separator, re.sub("#.*", "", text)), 1):
        if words.strip():
            yield number, words


def _key(line: str) -> Key:
    words = line.split()
    if len(words) != 3:
        raise KeysError(f"{len(words)} words; three are allowed, NAME SCOPES SECRET ({MAKE})")
    name, listed, secret = words
    scopes = frozenset(listed.split(","))
    if not _NAME.fullmatch(name):
        raise KeysError(f"the first word is no name; {NAMES} are allowed")
    if not scopes <= set(SCOPES):
        raise KeysError(f"the second word names no scopes; {LISTED}")
    if secret.startswith(HASHED):
        if not _DIGEST.fullmatch(secret.removeprefix(HASHED)):
            raise KeysError(f"the third word is no hash; {HASHED} and 64 hex digits are allowed")
        return Key(name, scopes, bytes.fromhex(secret.removeprefix(HASHED)))
    if not _TOKEN.fullmatch(secret):
        signs = f"{SHORTEST} to {LONGEST} letters, digits, and - . _ ~ + / with = at the end"
        raise KeysError(f"the third word is no key; {signs} are allowed, or {HASHED} and 64 hex digits")
    return Key(name, scopes, digest(secret.encode()))
