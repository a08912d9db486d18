"""Lines of API keys: what is understood, what is refused and how, and how a file is followed while it changes."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from service import keys as verb
from service.access.keyring import Keyring, Watch, keyring
from service.access.keys import Key, KeysError, digest, made, parsed
from service.access.rates import Rates
from service.access.reach import check_reach
from service.errors import TooManyOfKey
from tests.processes import wait_until

PLAIN = "a-key-that-is-long-enough"
HASH = digest(PLAIN.encode()).hex()


def who(ring: Keyring, token: str) -> str | None:
    key = ring.who(token.encode())
    return key and key.name


@pytest.mark.parametrize(
    "text",
    [
        f"shop rank {PLAIN}",
        f"shop rank sha256:{HASH}",
        f"shop rank sha256:{HASH.upper()}",
        f"\ufeff# callers\r\n\r\n  shop\trank   {PLAIN}  # since May; for the shop\r\n",
    ],
    ids=["plain", "hashed", "capitals", "as an editor leaves it"],
)
def test_a_key_is_known_whether_its_line_holds_it_or_its_hash(text: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(text, newline="")
    ring = Keyring("", file)
    assert who(ring, PLAIN) == "shop"
    for other in ("", PLAIN[:-1], PLAIN + "a", PLAIN.upper(), f"sha256:{HASH}", HASH, "x" * 10_000):
        assert who(ring, other) is None, other


def test_a_variable_holds_several_keys_with_semicolons_between() -> None:
    ring = Keyring(f"old rank {PLAIN}; new rank,admin another-{PLAIN};")
    assert (who(ring, PLAIN), who(ring, f"another-{PLAIN}")) == ("old", "new")
    assert ring.words() == "old (rank), new (admin rank)"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no key in it"),
        ("# none yet\n", "no key in it"),
        (PLAIN, "line 1: 1 words; three are allowed, NAME SCOPES SECRET"),
        (f"\nshop rank {PLAIN} 100/s", "line 2: 4 words"),
        (f"sh/op rank {PLAIN}", "line 1: the first word is no name"),
        (f"shop {PLAIN} rank", "line 1: the second word names no scopes; rank, write, admin, metrics are allowed"),
        (f"shop rank,sudo {PLAIN}", "line 1: the second word names no scopes"),
        (f"shop rank, {PLAIN}", "line 1: the second word names no scopes"),
        ("shop rank too-short", "line 1: the third word is no key; 16 to 256 letters"),
        (f"shop rank {PLAIN}\u00e9", "line 1: the third word is no key"),
        (f"shop rank sha256:{HASH[:-1]}", "line 1: the third word is no hash; sha256: and 64 hex digits"),
        (f"shop rank sha1:{HASH}", "line 1: the third word is no key"),
        (f"shop rank {PLAIN}\nshop rank other-{PLAIN}", "line 2: 'shop' is there already"),
        (f"shop rank {PLAIN}\nbar rank sha256:{HASH}", "line 2: the same key is there already under another name"),
        ("\n".join(f"k{n} rank {PLAIN}{n}" for n in range(101)), "101 keys, at most 100"),
    ],
)
def test_a_line_that_is_none_is_refused_with_its_number_and_without_its_words(text: str, complaint: str) -> None:
    with pytest.raises(KeysError) as refused:
        parsed(text, "line")
    assert complaint in str(refused.value)
    assert PLAIN not in str(refused.value) and HASH not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge").write_bytes(b"#" * (2**20 + 1))
    for name, why in (("none", "No such file"), (".", "Is a directory"), ("binary", "not UTF-8"), ("huge", "bytes")):
        with pytest.raises(KeysError, match=f"RANKER_KEYS_FILE={tmp_path / name}: .*{why}"):
            keyring(None, tmp_path / name)


def test_two_sources_of_keys_are_refused_and_none_means_that_nobody_needs_one(tmp_path: Path) -> None:
    assert keyring(None, None) is None
    with pytest.raises(KeysError, match="RANKER_KEYS and RANKER_KEYS_FILE are both set"):
        keyring(f"shop rank {PLAIN}", tmp_path / "keys")
    with pytest.raises(KeysError, match="RANKER_KEYS: no key in it"):  # a variable that a script left empty
        keyring("", None)


def test_a_file_is_followed_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"old rank {PLAIN}\n")
    ring = Keyring("", file)
    told: list[tuple[int, str]] = []
    watch = Watch(ring, lambda level, text: told.append((level, text)))
    watch.start()
    with closing(watch):
        file.write_text(f"old rank {PLAIN}\nnew rank other-{PLAIN}\n")
        wait_until(lambda: who(ring, f"other-{PLAIN}") == "new")
        wait_until(lambda: told == [(logging.INFO, "keys read again: old (rank), new (rank)")])

        file.write_text("rubbish\n")
        wait_until(lambda: len(told) == 2)
        assert told[1][0] == logging.ERROR and "line 1: 1 words" in told[1][1] and "still hold: old" in told[1][1]
        file.unlink()
        wait_until(lambda: len(told) == 3)
        assert "No such file" in told[2][1]
        assert (who(ring, PLAIN), who(ring, f"other-{PLAIN}")) == ("old", "new")

        beside = tmp_path / "beside"  # as a mounted ConfigMap changes: another file under the same name
        beside.write_text(f"new rank other-{PLAIN}\n")
        os.replace(beside, file)
        wait_until(lambda: who(ring, PLAIN) is None)
        assert who(ring, f"other-{PLAIN}") == "new"


def test_a_process_that_starts_while_the_file_is_broken_knows_the_keys_that_hold(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("rubbish")
    before = Keyring(f"old rank,admin {PLAIN}")
    assert PLAIN not in before.text()
    ring = keyring(None, file, before.text())
    assert ring is not None and who(ring, PLAIN) == "old" and ring.text() == before.text()
    file.write_text(f"new rank other-{PLAIN}")
    assert ring.look() and who(ring, PLAIN) is None and who(ring, f"other-{PLAIN}") == "new"


def test_a_new_key_is_shown_and_the_file_gets_its_hash_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys"
    file.write_text("# callers")
    file.chmod(0o640)
    assert verb.main(["shop", "rank,write", "--file", str(file)]) == 0
    token = capsys.readouterr().out.strip()
    assert verb.main(["ops", "admin"]) == 0
    _, line = capsys.readouterr().out.splitlines()
    text = file.read_text()
    assert text.startswith("# callers\nshop rank,write sha256:") and token not in text
    assert who(Keyring(f"{text}{line}"), token) == "shop"
    assert file.stat().st_mode & 0o777 == 0o640 and os.listdir(tmp_path) == ["keys"]


@pytest.mark.parametrize(
    ("name", "scopes", "why"),
    [
        ("sh op", "rank", "NAME 'sh op' given; up to 64 letters"),
        ("shop", "rank, write", "SCOPES 'rank, write' given; rank, write, admin, metrics are allowed"),
        ("shop", "all", "SCOPES 'all' given; rank, write, admin, metrics are allowed"),
        ("shop", "rank", "already"),
    ],
)
def test_a_key_that_cannot_be_added_leaves_the_file_as_it_was(
    name: str, scopes: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"shop rank {PLAIN}\n")
    assert verb.main([name, scopes, "--file", str(file)]) == 1
    told = capsys.readouterr()
    assert why in told.err and not told.out
    assert file.read_text() == f"shop rank {PLAIN}\n"


def test_every_new_key_is_another_one() -> None:
    assert len({made("shop", "rank")[0] for _ in range(100)}) == 100


# --- how often ---


def test_a_key_has_its_rate_and_no_other_key_s() -> None:
    rates = Rates("3/hour")
    one, other = (Key(name, frozenset({"rank"}), b"") for name in ("one", "other"))
    for _ in range(3):
        rates.check(one, count=False)  # to foresee does not count
        rates.check(one, count=True)
    for count in (False, True):
        with pytest.raises(TooManyOfKey, match="more than 3 per 1 hour by the key 'one'") as refused:
            rates.check(one, count)
        assert 3590 <= refused.value.retry_after_s <= 3600
    rates.check(other, count=True)


@pytest.mark.parametrize("text", ["", "many", "0/second", "-1/second", "10/fortnight", "1.5/second"])
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(KeysError, match="RANKER_RATE="):
        Rates(text)


# --- where keys are needed ---


@contextmanager
def listening(family: socket.AddressFamily, where: object) -> Iterator[socket.socket]:
    with socket.socket(family) as listener:
        try:
            listener.bind(where)  # type: ignore[arg-type]
        except OSError as error:
            pytest.skip(f"this machine has no {where}: {error}")
        yield listener


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("0.0.0.0", False), ("::1", True), ("::", False)],
)
def test_keys_may_be_left_out_where_only_this_machine_reaches_the_service(host: str, alone: bool) -> None:
    with listening(socket.AF_INET6 if ":" in host else socket.AF_INET, (host, 0)) as listener:
        if alone:
            check_reach([listener], None, without_keys=False)
            return
        with pytest.raises(KeysError, match="can be reached from other machines.*RANKER_KEYS_FILE"):
            check_reach([listener], None, without_keys=False)
        check_reach([listener], None, without_keys=True)
        check_reach([listener], Keyring(f"shop rank {PLAIN}"), without_keys=False)


def test_a_mapped_loopback_address_and_a_socket_in_the_file_system_are_this_machine_s(tmp_path: Path) -> None:
    with listening(socket.AF_INET6, ("::ffff:127.0.0.1", 0)) as mapped:
        check_reach([mapped], None, without_keys=False)
    with listening(socket.AF_UNIX, str(tmp_path / "socket")) as local:
        check_reach([local], None, without_keys=False)


def test_one_listener_of_two_that_strangers_reach_is_enough() -> None:
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as alone, listening(socket.AF_INET, ("0.0.0.0", 0)) as wide:
        with pytest.raises(KeysError, match=rf"^0\.0\.0\.0:{wide.getsockname()[1]} can be reached"):
            check_reach([alone, wide], None, without_keys=False)
