"""A redis-server that can be killed, frozen, filled and given another password, and comes back with what it held."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import redis

from service.store import embedded
from tests.processes import wait_until
from tests.servers import Child

PASSWORD = "geheim-7f3a"  # must never be seen in a log
ANOTHER = "another-password"


class RealStore(Child):
    """A server of Redis, or the embedded Valkey where none is installed, on a Unix socket in a folder of its own.

    `options` are the server's; without any it keeps what `admin.save()` was told to.
    """

    def __init__(self, folder: Path, **options: str):
        super().__init__(folder)
        self._options = options
        self.path = folder / "socket"
        self.url = f"unix://:{PASSWORD}@{quote(str(self.path))}"
        found = shutil.which("redis-server")
        self._server = Path(found) if found else embedded.packaged_server()
        self.admin = redis.Redis(unix_socket_path=str(self.path), password=PASSWORD)
        self.start()

    def start(self) -> None:
        """Starts it with what was last saved; call it from the main thread, with whose end the server ends too."""
        options = {"port": "0", "unixsocket": str(self.path), "unixsocketperm": "700", "dir": str(self._folder)}
        options |= {"save": "", "appendonly": "no", "requirepass": PASSWORD} | self._options
        self.begin(self._server, *(word for name, value in options.items() for word in (f"--{name}", value)))
        wait_until(self._answers, "the store does not start")

    def _answers(self) -> bool:
        try:
            return bool(self.admin.ping())
        except redis.RedisError:
            return False

    def lock(self) -> None:
        """Another password, for every connection."""
        self.admin.config_set("requirepass", ANOTHER)
        self.admin.client_kill_filter(_type="normal", skipme=True)

    def unlock(self) -> None:
        with redis.Redis(unix_socket_path=str(self.path), password=ANOTHER) as admin:
            admin.config_set("requirepass", PASSWORD)

    def fill(self) -> None:
        """Not a byte more may be written."""
        self.admin.config_set("maxmemory-policy", "noeviction")
        self.admin.config_set("maxmemory", 1)

    def drain(self) -> None:
        self.admin.config_set("maxmemory", 0)

    def keys_of(self, user_id: str) -> list[bytes]:
        """All keys of a user, whatever the version of their format."""
        return sorted(self.admin.scan_iter(f"{{u:{user_id}}}*", count=10_000))

    def close(self) -> None:
        self.thaw()
        self.kill()
        self.admin.close()


@contextmanager
def real_store(**options: str) -> Iterator[RealStore]:
    with tempfile.TemporaryDirectory(prefix="ranker-faults-") as folder:
        store = RealStore(Path(folder), **options)
        try:
            yield store
        finally:
            store.close()
