"""The keys that are known at the moment. Those of a file follow the file; a broken file changes nothing."""

import hmac
import logging
from collections.abc import Callable
from pathlib import Path

from service.access.keys import LONGEST, Key, KeysError, digest, parsed
from service.looking import Looking

log = logging.getLogger("ranker")

KNOWN = "RANKER_KEYS_KNOWN"  # how the parent tells a process that starts while the file is broken which keys hold
POLL_S = 1.0  # between two looks at the file
MOST_BYTES = 2**20  # of it


class Keyring:
    """Keys of a `file` that `look` reads again, or of `text`, also where the file is broken. Raises KeysError."""

    def __init__(self, text: str, file: Path | None = None):
        self._file = file
        self.changes = file is not None
        try:
            self._keys = self._parsed(text) if file is None else self._read(file)
        except KeysError:
            if file is None or not text:
                raise
            self._keys = parsed(text, "entry")

    def who(self, token: bytes) -> Key | None:
        """The key that this is. Its time tells nothing: hashes are compared, each whole, and all of them always."""
        if not token or len(token) > LONGEST:
            return None
        asked, found = digest(token), None
        for key in self._keys:
            if hmac.compare_digest(key.digest, asked):
                found = key
        return found

    def look(self) -> bool:
        """Reads the file again: True where its keys are others now. Raises KeysError."""
        if self._file is None:
            return False
        before = self._keys
        self._keys = self._read(self._file)
        return self._keys != before

    def text(self) -> str:
        """The keys as a Keyring takes them, without secrets."""
        return ";".join(key.line() for key in self._keys)

    def words(self) -> str:
        """Names and scopes, for the log."""
        return ", ".join(f"{key.name} ({' '.join(sorted(key.scopes))})" for key in self._keys)

    def _read(self, file: Path) -> tuple[Key, ...]:
        try:
            with file.open("rb") as lines:
                content = lines.read(MOST_BYTES + 1)
            if len(content) > MOST_BYTES:
                raise KeysError(f"RANKER_KEYS_FILE={file}: more than {MOST_BYTES} bytes")
            text = content.decode("utf-8-sig")
        except OSError as error:
            raise KeysError(f"RANKER_KEYS_FILE={file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise KeysError(f"RANKER_KEYS_FILE={file}: not UTF-8") from None
        return self._parsed(text)

    def _parsed(self, text: str) -> tuple[Key, ...]:
        try:
            return parsed(text, "entry" if self._file is None else "line")
        except KeysError as error:
            raise KeysError(f"RANKER_KEYS{'' if self._file is None else f'_FILE={self._file}'}: {error}") from None


def keyring(text: str | None, file: Path | None, known: str | None = None) -> Keyring | None:
    """None where neither is set: there are no keys, and nobody needs one. `known`: KNOWN's. Raises KeysError."""
    if text is None and file is None:
        return None
    if text is not None and file is not None:
        raise KeysError("RANKER_KEYS and RANKER_KEYS_FILE are both set; one of them is allowed")
    return Keyring(text or known or "", file)


def ring_of(text: str | None, file: Path | None, known: str | None, rate: str | None) -> Keyring | None:
    """As `keyring`; raises KeysError too for a rate that there are no keys for."""
    ring = keyring(text, file, known)
    if rate is not None and ring is None:
        raise KeysError(f"RANKER_RATE={rate!r} bounds requests per key, but there are no keys; set some")
    return ring


class Watch:
    """Looks at the keyring's file, in a thread. `tell` gets a level of the log and what a look came to, if it is news.

    Every process looks for itself; only the parent tells, or each line would be there once per worker.
    """

    def __init__(self, ring: Keyring | None, tell: Callable[[int, str], None] = lambda level, text: None):
        self._ring, self._tell = ring, tell
        self._problem: str | None = None  # told once for as long as it is the same
        changes = ring is not None and ring.changes
        self._looking = Looking(self._look, POLL_S if changes else 0, "keys-watch")

    def start(self) -> None:
        self._looking.start()

    def close(self) -> None:
        self._looking.close()

    def _look(self) -> None:
        assert self._ring is not None
        ring = self._ring
        try:
            if ring.look():
                self._tell(logging.INFO, f"keys read again: {ring.words()}")
            elif self._problem is not None:
                self._tell(logging.INFO, f"keys can be read again and are the same: {ring.words()}")
            self._problem = None
        except KeysError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                self._tell(logging.ERROR, f"{self._problem}; refused, the keys before still hold: {ring.words()}")
