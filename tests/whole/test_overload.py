"""The benchmarks of overload and of the steady state: what counts, what recovers, and the lines that scripts read."""

import asyncio
import json
import math
import os
from pathlib import Path

import numpy as np
import orjson
import pytest

from loadtest import overload, steady
from loadtest.bench.processes import on
from loadtest.generator.answers import Kind
from loadtest.generator.client import Address, Answer, parse_url
from loadtest.generator.plan import Body
from loadtest.surge import scrape
from loadtest.surge.probes import Probes, probing
from loadtest.surge.traffic import GIVE_UP_S, Batch, Calls, Mix, Segment, Sent, Traffic, check_batch
from loadtest.surge.windows import Slice, Span, recovery_s, slices, window
from tests.processes import offspring
from tests.verbs import refusal

ROOT = Path(__file__).parents[2]
BODY = Body(b'{"candidates":["a"]}', 1)
RIGHT = {"items": [{"item_id": "a", "score": 0.5}], "degraded": []}
BATCH = Batch(b"[]", (BODY, BODY))
two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="a core for each side is needed"
)


def answer(content: object, status: int = 200, retry_after: bytes = b"") -> Answer:
    return Answer(0.0, status, orjson.dumps(content), None, b"", retry_after)


def calls(answers: list[tuple[float, float, Answer]]) -> Calls:
    """A log of requests: when each was due, how long its answer took, and the answer."""
    log = Calls(np.array([due_s for due_s, *_ in answers]), [BODY])
    for request, (due_s, taken_s, one) in enumerate(answers):
        log.sent(request, due_s)
        log.answered(request, due_s + taken_s, one)
    log.close(100.0)
    log.finish()
    return log


def sent(singles: Calls) -> Sent:
    return Sent(singles, calls([]), calls([]))


def test_goodput_is_what_was_right_within_the_budget_from_when_it_was_due() -> None:
    refused, late = answer({}, 429, b"1"), answer({}, 504)
    ended = [(0.5, 0.01, answer(RIGHT)), (1.0, 0.04, answer(RIGHT)), (1.2, 0.06, answer(RIGHT))]
    ended += [(1.4, 0.3, answer(RIGHT)), (1.6, 0.001, refused), (1.8, 0.2, late), (2.0, 0.01, answer({"items": []}))]
    seen = window(2.0, sent(calls(ended)), Span(1.0, 3.0), 50.0, 200.0, 5)
    assert seen.good and seen.goodput == 0.5 and seen.figures["goodput_deadline"] == 1.0  # per second, of two
    assert seen.figures["offered"] == 3.0 and seen.figures["p99_accepted_ms"] == pytest.approx(300)
    assert seen.figures["refused"] == seen.figures["late"] == seen.figures["failed"] == pytest.approx(1 / 6)
    assert seen.figures["refusal_p50_ms"] == pytest.approx(1) and seen.figures["failures"] == {
        "wrong number of items": 1
    }
    assert seen.in_vain == 1  # of five that were computed four were right


def test_a_window_whose_sends_were_late_does_not_count() -> None:
    log = calls([(1.0, 0.01, answer(RIGHT))] * 2)
    log.sent_s[0] += 0.003
    assert not window(1.0, sent(log), Span(1.0, 2.0), 50.0, 200.0, 2).good


def test_a_batch_is_as_good_as_the_worst_of_its_answers() -> None:
    degraded = RIGHT | {"degraded": ["history:open"]}
    for content, kind in (
        ([RIGHT, RIGHT], Kind.RIGHT),
        ([RIGHT, degraded], Kind.DEGRADED),
        ([RIGHT, {"error": {}}], Kind.WRONG),
        ([RIGHT], Kind.WRONG),
    ):
        assert check_batch(answer(content), BATCH)[0] == kind
    assert check_batch(answer({}, 429, b"1"), BATCH)[0] == Kind.REFUSED


def test_recovery_is_when_slices_are_as_quick_as_half_load_has_them_and_stay_so() -> None:
    half = [Slice(begin_s, 10.0 + begin_s, 0.0) for begin_s in np.arange(20).tolist()]  # limit: 28 ms
    quick, slow, refusing = (9.0, 0.0), (99.0, 0.0), (9.0, 0.5)
    ends = [slow, quick, slow, refusing, quick, quick]
    after = [Slice(5.0 + 0.2 * number, *end) for number, end in enumerate(ends)]
    assert recovery_s(half, after, 5.0) == pytest.approx(0.8)
    assert recovery_s(half, after[:4], 5.0) is None


def test_slices_leave_out_what_had_nothing_due_and_see_what_was_turned_away() -> None:
    log = calls([(0.0, 0.01, answer(RIGHT)), (0.1, 0.02, answer({}, 429, b"1")), (0.5, 0.01, answer({}, 504))])
    first, last = slices(log, Span(0.0, 1.0))
    assert first.p99_ms == pytest.approx(10) and first.turned_away == 0.5
    assert last.p99_ms == math.inf and last.begin_s == pytest.approx(0.4)


def test_answers_that_a_service_counted_are_read_by_outcome() -> None:
    lines = ['{route="/rank",outcome="ok",model="a"} 3.0', '{route="/rank",outcome="ok",model="b"} 2.0']
    lines += ['{route="/rank",outcome="shed",model=""} 7.0', '{route="/model",outcome="ok",model=""} 1.0']
    text = "# TYPE ranker_requests counter\n" + "".join(f"ranker_requests_total{line}\n" for line in lines)
    assert scrape.requests(text) == {"ok": 5, "shed": 7}


def test_callers_without_patience_hang_up_and_others_wait() -> None:
    async def run() -> tuple[Sent, Probes]:
        server = await asyncio.start_server(_slow, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        address, probes = parse_url(f"http://127.0.0.1:{port}"), Probes(parse_url(f"http://127.0.0.1:{port}"))
        async with server, probing([probes]):
            traffic = Traffic(address, [BODY], [BATCH], np.random.default_rng(1))
            ended = await traffic.send([Segment(0.2, 100.0)], Mix(batches=0.2, impatient=0.5), "slow")
        ended.finish()
        return ended, probes

    ended, probes = asyncio.run(run())
    assert all(len(log.due_s) for log in ended)
    assert ended.singles.right.all() and (ended.batches.kinds == Kind.WRONG).all()  # it answers as one request
    assert not ended.impatient.right.any() and set(ended.impatient.whys()) == {"the caller hung up"}
    assert window(1.0, ended, Span(0.0, 0.2), 50.0, 200.0, 0).hung_up == len(ended.impatient.due_s)
    assert not probes.silent and (probes.worst_ms or 0) > 1000 * GIVE_UP_S


async def _slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers everything rightly, a little later than the impatient wait."""
    content = orjson.dumps(RIGHT)
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            _, _, length = head.lower().partition(b"content-length:")
            await reader.readexactly(int(length.split()[0]) if length else 0)
            await asyncio.sleep(2 * GIVE_UP_S)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the caller has left
    finally:
        writer.close()


def test_a_port_that_nobody_listens_on_is_silent() -> None:
    async def run() -> Probes:
        probes = Probes(Address(False, "127.0.0.1", 1, "127.0.0.1:1", ""))
        await probes.probe("/metrics")
        return probes

    probes = asyncio.run(run())
    assert probes.silent and probes.worst_ms is None and "cannot connect" in probes.by_path["/metrics"].why


@pytest.mark.long
@two_cores
def test_overload_ends_in_the_line_that_scripts_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "overload.png"
    with offspring():
        assert overload.main(["--quick", "--count-late", "--also", "6", "--out", str(out)]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["capacity"] == 40 and set(figures["curve"]) == {"0.5", "1", "1.5", "2", "4", "6"}
    assert figures["peak_goodput"] >= 0 and "no figures to quote" in figures["note"]
    for key in ("goodput_2x_over_peak", "goodput_4x_over_peak", "batch_goodput_2x_over_peak", "p99_accepted_4x_ms"):
        assert key in figures
    assert {"recovery_s", "admin_worst_ms", "computed_in_vain", "batch_goodput_4x_over_peak"} <= figures.keys()
    assert figures["main_worst_ms"] > 0 and figures["impatient"]["impatient"]["offered"] > 0
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores can be chosen on Linux")
def test_on_one_core_there_is_no_overload_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    with on({min(os.sched_getaffinity(0))}):
        assert overload.main(["--quick"]) == 2
    assert "1 core to choose from; two are needed" in capsys.readouterr().err


@pytest.mark.long
def test_steady_compares_two_checkouts_in_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with offspring():
        assert steady.main(["--quick", "--before", str(ROOT), "--out", str(tmp_path / "steady.png")]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    for count in (100, 500):
        low, high = figures[f"p50_ratio_{count}_low"], figures[f"p50_ratio_{count}_high"]
        assert 0 < low <= figures[f"p50_ratio_{count}"] <= high


def test_the_interval_of_a_ratio_narrows_around_rounds_that_agree() -> None:
    low, high = steady.interval([[2.0, 2.0]] * 9 + [[9.0]], [[1.0]] * 10)
    assert low == high == 2.0


def test_what_cannot_be_measured_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no checkout" in refusal(capsys, steady.main, ["--before", str(tmp_path)])
    assert "NAME=VALUE is allowed" in refusal(capsys, overload.main, ["--set", "timeout_ms"])
    assert "timeout_ms=INTEGER is allowed" in refusal(capsys, overload.main, ["--set", "timeout_ms=soon"])
    assert overload.main(["--quick", "--set", "timeout=5"]) == 2
    assert "--set timeout: no such setting; allowed: admin_port, " in capsys.readouterr().err
