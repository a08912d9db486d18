"""What comes from elsewhere stays within its folder, within its bounds, and is what its sha256 says."""

import hashlib
import io
import os
import socket
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from model.bundle.layout import BundleError
from service.models.installing import unpack as unpacking
from service.models.installing.fetch import compare, fetch
from service.models.installing.unpack import unpack
from service.wire.codings import zstd

MOST = 10**9


def entry(name: str, kind: bytes = tarfile.REGTYPE, **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in more.items():
        setattr(info, field, value)
    return info


def tarred(path: Path, *entries: tarfile.TarInfo, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info in entries:
            archive.addfile(info, io.BytesIO(b"x" * info.size) if info.isreg() else None)
    return path


def zipped(path: Path, *entries: tuple[str, bytes, int]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return path


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (entry("../out", size=1), "leads out"),
        (entry("a/../../out", size=1), "leads out"),
        (entry("/out", size=1), "leads out"),
        (entry("link", tarfile.SYMTYPE, linkname="/etc/passwd"), "is a link"),
        (entry("hard", tarfile.LNKTYPE, linkname="../out"), "is a link"),
        (entry("null", tarfile.CHRTYPE), "device or pipe"),
        (entry("pipe", tarfile.FIFOTYPE), "device or pipe"),
    ],
)
def test_an_entry_that_would_leave_its_folder_is_refused(tmp_path: Path, info: tarfile.TarInfo, says: str) -> None:
    (tmp_path / "in").mkdir()
    archive = tarred(tmp_path / "b.tar.gz", entry("fine", size=3), info)
    with pytest.raises(BundleError, match=says):
        unpack(archive, tmp_path / "in" / "to", MOST)
    assert not (tmp_path / "out").exists() and not (tmp_path / "in" / "out").exists()


@pytest.mark.parametrize(
    ("name", "mode", "says"), [("../out", 0o644, "leads out"), ("link", stat.S_IFLNK | 0o777, "is no file")]
)
def test_so_is_one_of_a_zip(tmp_path: Path, name: str, mode: int, says: str) -> None:
    archive = zipped(tmp_path / "b.zip", ("fine", b"1", 0o644), (name, b"/etc/passwd", mode))
    with pytest.raises(BundleError, match=says):
        unpack(archive, tmp_path / "to", MOST)
    assert not (tmp_path / "out").exists()


def test_a_folder_s_link_that_leads_out_of_it_is_refused_and_one_within_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "a").write_text("a")
    (folder / "b").symlink_to("a")
    unpack(folder, tmp_path / "to", MOST)
    assert (tmp_path / "to" / "b").read_text() == "a" and not (tmp_path / "to" / "b").is_symlink()
    (folder / "c").symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match="c leads out of it"):
        unpack(folder, tmp_path / "again", MOST)


@pytest.mark.parametrize("make", ["tar", "zip"])
def test_what_unpacks_to_more_than_it_may_is_stopped(
    tmp_path: Path, make: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "FREELY", 1_000_000)
    if make == "tar":
        bomb = tarred(tmp_path / "b.tar.gz", entry("zeros", size=20_000_000))
    else:
        bomb = tmp_path / "b.zip"
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros", bytes(20_000_000))
    with pytest.raises(BundleError, match="unpacks to more than"):
        unpack(bomb, tmp_path / "to", MOST)
    assert sum(path.stat().st_size for path in (tmp_path / "to").rglob("*")) <= 2_000_000 + 200 * bomb.stat().st_size


def test_too_many_files_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MOST_FILES", 5)
    archive = tarred(tmp_path / "b.tar", *(entry(f"f{number}", size=1) for number in range(6)), mode="w")
    with pytest.raises(BundleError, match="more than 5 files"):
        unpack(archive, tmp_path / "to", MOST)


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04broken", b"\x1f\x8bbroken"])
def test_what_is_no_archive_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "b.tar.gz"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="is no whole archive.*is allowed"):
        unpack(path, tmp_path / "to", MOST)


def test_an_archive_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tarred(tmp_path / "b.tar.gz", *(entry(f"f{number}", size=100_000) for number in range(5)))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BundleError, match="is no whole archive"):
        unpack(path, tmp_path / "to", MOST)


def test_tar_zst_is_read(tmp_path: Path) -> None:

    plain = tarred(tmp_path / "b.tar", entry("a", size=5), mode="w")
    packed = tmp_path / "b.tar.zst"
    packed.write_bytes(zstd.compress(plain.read_bytes()))
    unpack(packed, tmp_path / "to", MOST)
    assert (tmp_path / "to" / "a").read_bytes() == b"xxxxx"


@contextmanager
def server(folder: Path, handler: Callable[..., Any] | None = None) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

    with ThreadingHTTPServer(("127.0.0.1", 0), handler or Quiet) as one:
        thread = threading.Thread(target=one.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{one.server_port}"
        finally:
            one.shutdown()
            thread.join()


def test_a_url_is_fetched_within_its_bound_and_compared(tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(os.urandom(3_000_000))
    to = tmp_path / "to"
    with server(tmp_path) as url:
        fetch(f"{url}/b.tar", to, MOST)
        assert to.read_bytes() == (tmp_path / "b.tar").read_bytes()
        with pytest.raises(BundleError, match="3000000 bytes, at most 1000 are taken"):
            fetch(f"{url}/b.tar", to, 1000)
        with pytest.raises(BundleError, match="is answered 404"):
            fetch(f"{url}/none.tar", to, MOST)
    compare(to, hashlib.sha256((tmp_path / "b.tar").read_bytes()).hexdigest().upper(), "b.tar")
    with pytest.raises(BundleError, match="b.tar: sha256 is .*, 0{64} was given"):
        compare(to, "0" * 64, "b.tar")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://h/b.tar", "data://x"])
def test_other_schemes_are_not_fetched(tmp_path: Path, url: str) -> None:
    with pytest.raises(BundleError, match="allowed: http, https, s3, or a path"):
        fetch(url, tmp_path / "to", MOST)


def test_nobody_at_a_url_is_one_clear_line_and_shows_no_password(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(BundleError, match="cannot be fetched") as raised:
            fetch(f"http://me:secret@127.0.0.1:{taken.getsockname()[1]}/b.tar?key=hush", tmp_path / "to", MOST)
    assert "secret" not in str(raised.value) and "hush" not in str(raised.value)
