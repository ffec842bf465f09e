"""The load tester against the real service: every kind of reader, every protocol, the command and its exit status."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socketserver
import sys
import threading
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from app.tools.load import command as load_command
from app.tools.load.connection import Target
from app.tools.load.figures import Figures, StreamEnd
from app.tools.load.findings import Findings
from app.tools.load.plan import Kind, Plan
from app.tools.load.protocols import PROTOCOLS, Question
from app.tools.load.run import run
from app.tools.load.subject import Subject
from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.conftest import Serve

ROOT = Path(__file__).resolve().parents[3]


async def loaded(
    service: Running,
    plan: Plan,
    directive: str,
    protocol: str = "plain",
    timeout_s: float = 30,
    max_tokens: int = 5000,
    key: str | None = None,
    admin: Sequence[str] = (),
    **given: Any,
) -> Findings:
    target = Target.of(service.url)
    question = Question(
        PROTOCOLS[protocol],
        target.host,
        f"{{{{{directive}}}}}",
        "claude-opus-4-8",
        max_tokens,
        key,
        word=b" token",
    )
    return await run(
        plan, target, question, where=service.url, admin=admin or [service.admin_url], timeout_s=timeout_s, **given
    )


def only(kind: Kind, streams: int = 5, **given: Any) -> Plan:
    return Plan(streams, ramp_s=0.05, mix={kind: 1}, **given)


def ends(found: Findings, kind: Kind) -> Mapping[StreamEnd, int]:
    return dict(found.figures.of(kind).ends)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("on_unix_socket", [False, True], ids=["tcp", "unix"])
async def test_fast_readers_get_every_token(serve: Serve, tmp_path: Path, protocol: str, on_unix_socket: bool) -> None:
    service = await serve(unix=str(tmp_path / "s") if on_unix_socket else "")
    found = await loaded(service, only(Kind.FAST), "tokens=60 rate=200 text=numbered", protocol)

    fast = found.figures.of(Kind.FAST)
    assert dict(fast.ends) == {StreamEnd.FINISHED: 5}
    assert fast.words == 5 * 60
    assert fast.ttft.count == 5
    assert fast.gaps.count > 5
    assert found.service is not None
    assert found.service.outcomes == {"completed": 5}
    assert found.service.generated == 300


async def test_a_reader_comes_again_until_the_test_is_over(service: Running) -> None:
    found = await loaded(service, only(Kind.FAST, 2, duration_s=1.5), "tokens=5")
    assert found.figures.of(Kind.FAST).ends[StreamEnd.FINISHED] > 2
    assert 1.5 <= found.elapsed_s < 20


async def test_what_still_runs_when_the_test_is_over_is_cut_by_it(service: Running, simulator: Simulator) -> None:
    found = await loaded(service, only(Kind.FAST, 3, duration_s=1.0), "tokens=4000 rate=50")
    assert ends(found, Kind.FAST) == {StreamEnd.RUN_OVER: 3}
    assert found.figures.errors == 0
    assert found.service is not None
    assert found.service.outcomes == {"disconnected": 3}


async def test_a_test_can_be_ended_early(service: Running) -> None:
    over = asyncio.Event()
    found = await loaded(service, only(Kind.FAST, 3), "tokens=4000 rate=50", over=over, progress=lambda *_: over.set())
    assert ends(found, Kind.FAST) == {StreamEnd.RUN_OVER: 3}


async def test_no_more_answers_are_asked_for_than_may_be(serve: Serve, simulator: Simulator) -> None:
    """Refused ones cost nothing, and do not count."""
    service = await serve(max_streams=1)
    plan = Plan(4, ramp_s=0.0, duration_s=3.0, mix={Kind.FAST: 1})
    found = await loaded(service, plan, "tokens=20 rate=100", most_answers=3)
    assert ends(found, Kind.FAST)[StreamEnd.FINISHED] == len(simulator.books) == 3
    assert ends(found, Kind.FAST)[StreamEnd.REFUSED] > 0
    assert any("most to spend was reached" in note for note in found.notes)


async def test_leaving_readers_leave_and_their_answers_stop(service: Running, simulator: Simulator) -> None:
    plan = only(Kind.LEAVING, 12, turn_s=(1.0, 1.3))  # long enough to be seen in the service's list
    found = await loaded(service, plan, "tokens=4000 rate=500 ttft_s=0.02")

    assert ends(found, Kind.LEAVING) == {StreamEnd.LEFT: 12}
    assert {book.finished for book in simulator.books} == {False}
    assert found.service is not None
    assert found.service.outcomes == {"disconnected": 12}
    assert found.samples[-1].upstreams == 0


async def test_a_vanished_reader_is_to_the_service_one_that_vanished(serve: Serve) -> None:
    """Not one that left or stalls: its kernel acknowledges nothing."""
    service = await serve(vanish_timeout_s=1)
    plan = only(Kind.VANISHING, 3, turn_s=(0.1, 0.2), vanish_s=8)
    found = await loaded(service, plan, "tokens=4000 rate=200")

    assert ends(found, Kind.VANISHING) == {StreamEnd.VANISHED: 3}
    assert found.service is not None
    assert found.service.outcomes == {"vanished": 3}
    assert any("nothing is acknowledged" in note for note in found.notes)


async def test_on_a_unix_socket_vanishing_is_only_not_reading_and_the_report_says_so(
    serve: Serve, tmp_path: Path
) -> None:
    service = await serve(unix=str(tmp_path / "s"))
    plan = only(Kind.VANISHING, 1, turn_s=(0.1, 0.2), vanish_s=0.2)
    found = await loaded(service, plan, "tokens=4000 rate=200")
    assert any("only stopped reading" in note for note in found.notes)


@pytest.mark.parametrize("protocol", ["plain", "chat"])
async def test_resuming_readers_lose_no_frame_and_get_none_twice(service: Running, protocol: str) -> None:
    plan = only(Kind.RESUMING, 5, turn_s=(0.05, 0.3))
    found = await loaded(service, plan, "tokens=150 rate=200 text=numbered", protocol)

    assert ends(found, Kind.RESUMING) == {StreamEnd.FINISHED: 5}
    words = found.figures.of(Kind.RESUMING).words
    assert words == 5 * 150 if protocol == "plain" else words > 5 * 150, "a chat comes again from its start"


async def test_a_slow_reader_reads_at_its_speed_and_holds_the_answer_back(
    service: Running, simulator: Simulator
) -> None:
    plan = only(Kind.SLOW, 2, slow_bytes_per_s=4000, duration_s=60)
    over, looks = asyncio.Event(), 0

    def until_held(_elapsed_s: float, figures: Figures, _sample: object) -> None:
        nonlocal looks
        looks += figures.held == 2
        if looks == 2:
            over.set()

    asked = "tokens=60000"
    found = await loaded(service, plan, asked, over=over, progress=until_held, max_tokens=60_000, subject=Subject.HELD)

    slow = found.figures.of(Kind.SLOW)
    assert dict(slow.ends) == {StreamEnd.RUN_OVER: 2}
    assert 4000 < slow.wire_bytes <= 2 * 4000 * found.elapsed_s + 8000
    assert found.service is not None
    assert found.service.pauses > 0
    assert max(book.tokens for book in simulator.books) < 30_000


async def test_the_producers_of_slow_readers_are_held_and_those_of_fast_ones_are_not(
    serve: Serve, tmp_path: Path
) -> None:
    """On TCP and on a unix socket at once, for all they do is wait."""
    services = [await serve(unix=unix, api_keys=("k",)) for unix in ("", str(tmp_path / "s"))]
    await asyncio.gather(*map(held, services))


async def held(service: Running) -> None:
    mix = {Kind.FAST: 2.0, Kind.SLOW: 2.0, Kind.STALLING: 2.0}
    plan = Plan(6, ramp_s=0.1, duration_s=60, mix=mix, turn_s=(0.1, 0.2), stall_s=60)
    over, looks = asyncio.Event(), 0

    def until_held_for_a_while(_elapsed_s: float, figures: Figures, _sample: object) -> None:
        nonlocal looks
        looks += (figures.held or 0) >= 4
        if looks == 2:
            over.set()

    asked = "tokens=100000 rate=1000 tokens_per_delta=4-12"
    given: dict[str, Any] = {"max_tokens": 100_000, "key": "k", "subject": Subject.HELD}
    found = await loaded(service, plan, asked, over=over, progress=until_held_for_a_while, **given)

    [told] = found.shown
    assert told.happened is True
    assert told.sentence.startswith("Producers were held in 4 of 4 slow readers' streams (100%)")
    assert "and in 0 of 2 fast ones'" in told.sentence
    assert (found.figures.seconds[-2].held or 0) >= 4
    assert found.service is not None
    assert found.service.paused_s > 0


async def test_that_producers_were_not_held_is_named(service: Running) -> None:
    """These readers are as slow as their answers."""
    plan = only(Kind.SLOW, 3, duration_s=4, slow_bytes_per_s=4000)
    found = await loaded(service, plan, "tokens=5000 rate=50", subject=Subject.HELD)
    assert found.shown[0].happened is False
    assert "NOT held: in 0 of 3" in found.shown[0].sentence


async def test_a_stalling_reader_reads_on_to_the_end(service: Running) -> None:
    plan = only(Kind.STALLING, 3, turn_s=(0.1, 0.2), stall_s=0.6)
    found = await loaded(service, plan, "tokens=200 rate=100 text=numbered")

    stalling = found.figures.of(Kind.STALLING)
    assert dict(stalling.ends) == {StreamEnd.FINISHED: 3}
    assert stalling.words == 600
    assert stalling.gaps.most_s > 0.5


async def test_a_stalling_reader_that_is_given_up_ends_as_stalled(serve: Serve) -> None:
    """Though it does not read, and could have stalled on, it hears of its end soon; the answer is more than buffers take."""
    service = await serve(stall_timeout_s=4)  # in which it is looked at, once a second
    plan = only(Kind.STALLING, 2, turn_s=(0.1, 0.2), stall_s=100)  # their turn comes before the answer
    found = await loaded(
        service, plan, "tokens=100000 ttft_s=0.5", max_tokens=100_000, subject=Subject.STALLED, timeout_s=60
    )

    assert ends(found, Kind.STALLING) == {StreamEnd.STALLED: 2}
    assert found.service is not None
    assert found.service.outcomes == {"stalled": 2}
    assert found.shown[0].happened is True
    assert found.elapsed_s < 60


async def test_another_services_figures_are_never_taken_for_this_ones(serve: Serve) -> None:
    """A busy stranger stands where the admin port is looked for."""
    ours, stranger = await serve(), await serve()
    plan = only(Kind.FAST, 4)
    over = asyncio.Event()
    busy = asyncio.ensure_future(loaded(stranger, only(Kind.FAST, 9), "tokens=4000 rate=100", over=over))
    alone = await loaded(ours, plan, "tokens=60 rate=100", admin=[stranger.admin_url])
    both = await loaded(ours, plan, "tokens=60 rate=100", admin=[ours.admin_url, f"{stranger.admin_url}/metrics"])
    over.set()
    await busy

    assert alone.service is None
    assert [note for note in alone.notes if stranger.admin_url in note and "left out" in note]
    assert both.service is not None
    assert both.service.outcomes == {"completed": 4}
    assert [note for note in both.notes if stranger.admin_url in note and ours.admin_url not in note]


async def test_that_the_service_served_others_too_is_said(service: Running) -> None:
    over = asyncio.Event()
    others = asyncio.ensure_future(loaded(service, only(Kind.FAST, 9), "tokens=4000 rate=100", over=over))
    found = await loaded(service, only(Kind.FAST, 4), "tokens=100 rate=100")
    over.set()
    await others
    assert any("it served others too" in note for note in found.notes)


async def test_that_a_workers_admin_port_is_missing_is_said(service: Running) -> None:
    """One worker's port knows its own streams, and not those of the others."""

    async def listing(_request: web.Request) -> web.Response:
        return web.json_response([{"id": stream_id} for stream_id in service.streams.live])

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(text='sluiceway_streams_total{outcome="completed"} 1.0\n')

    worker = web.Application()
    worker.add_routes([web.get("/streams", listing), web.get("/metrics", metrics)])
    async with TestServer(worker) as port:
        found = await loaded(service, only(Kind.FAST, 4), "tokens=60 rate=100", admin=[str(port.make_url("/"))])
    assert any("know of 0 of this test's 4 streams" in note for note in found.notes)


async def test_refusals_are_counted_by_what_the_service_says(serve: Serve) -> None:
    service = await serve(max_streams=1, api_keys=("right",))
    found = await loaded(service, only(Kind.FAST, 3), "tokens=50 rate=50", key="right")
    assert found.figures.refusals == {"503 all 1 streams of this service are in use": 2}
    assert found.service is not None
    assert found.service.refused == {"full": 2}
    [refusal] = (await loaded(service, only(Kind.FAST, 3), "tokens=5", key="wrong")).figures.refusals
    assert refusal.startswith("401 ")


@pytest.mark.parametrize(
    ("directive", "end", "timeout_s"),
    [
        ("fault=http_529", StreamEnd.REFUSED, 30),
        ("fault=http_400", StreamEnd.REJECTED, 30),
        ("tokens=20 fault=overloaded after=5", StreamEnd.FAILED, 30),
        ("tokens=100 rate=1", StreamEnd.TIMED_OUT, 1),
    ],
)
async def test_what_goes_wrong_is_told_apart(serve: Serve, directive: str, end: StreamEnd, timeout_s: float) -> None:
    service = await serve(retries=0)
    found = await loaded(service, only(Kind.FAST, 2), directive, timeout_s=timeout_s)
    assert ends(found, Kind.FAST) == {end: 2}


async def test_a_wrong_key_is_rejected_and_the_right_one_is_sent(serve: Serve) -> None:
    service = await serve(api_keys=("right",))
    for key, end in (("wrong", StreamEnd.REJECTED), ("right", StreamEnd.FINISHED)):
        found = await loaded(service, only(Kind.FAST, 1), "tokens=5", key=key)
        assert ends(found, Kind.FAST) == {end: 1}


@pytest.mark.real
async def test_a_service_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    target = Target.of(f"unix:{tmp_path}/nobody")
    question = Question(PROTOCOLS["plain"], target.host, "x", None, 9)
    found = await run(only(Kind.FAST, 2), target, question, where="x", admin=["http://127.0.0.1:1"])
    assert ends(found, Kind.FAST) == {StreamEnd.UNREACHABLE: 2}
    assert found.figures.errors == 2
    assert any("could not be read" in note for note in found.notes)


# --- the command ---------------------------------------------------------------------------------------------------


async def command(service: Running, *options: str, interrupted_by: Awaitable[object] | None = None) -> tuple[int, str]:
    """`python -m app load` in a process of its own; gives its exit status and what it said."""
    words = ("--url", service.url, "--admin", service.admin_url, "--streams", "4", "--ramp", "0.1", *options)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", "load", *words,
        cwd=ROOT, env=os.environ | {"NO_COLOR": "1"}, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    if interrupted_by is not None:
        await interrupted_by
        process.send_signal(signal.SIGINT)
    said, _ = await process.communicate()
    assert process.returncode is not None, "it has ended"
    return process.returncode, said.decode()


async def test_the_command_reports_and_tells_by_its_status(service: Running, tmp_path: Path) -> None:
    report, found = tmp_path / "r.html", tmp_path / "r.json"
    status, said = await command(
        service, "--prompt", "{{tokens=20 rate=100}}", "--mix", "fast=3,resuming",
        "--max-errors", "0", "--max-wasted-tokens", "0", "--report", str(report), "--json", str(found),
    )  # fmt: skip
    assert status == 0, said
    assert "kept" in said
    assert report.read_text("utf-8").startswith("<!doctype html>")
    told = json.loads(found.read_text("utf-8"))
    assert told["readers"]["fast"]["ends"] == {"finished": 3}
    assert [one["verdict"] for one in told["thresholds"]] == ["kept", "kept"]


@pytest.mark.parametrize(("most", "expected"), [((), 1), (("--max-errors", "4"), 0)])
async def test_the_command_fails_where_a_threshold_is_exceeded(
    most: tuple[str, ...], expected: int, service: Running
) -> None:
    """That of errors is none, where none is given."""
    status, said = await command(service, "--prompt", "{{tokens=20 fault=cut after=5}}", *most)
    assert status == expected, said
    assert ("EXCEEDED" in said) == bool(expected)


async def test_the_command_fails_where_a_presets_subject_did_not_happen(service: Running) -> None:
    short = ("--max-tokens", "2000", "--duration", "5", "--slow", "4000")
    status, said = await command(service, "--preset", "slow-readers", *short)
    assert status == 4, said
    assert "\nProducers were NOT held: in 0 of" in said


async def test_the_command_shows_a_presets_subject_in_its_first_line(service: Running) -> None:
    status, said = await command(service, "--preset", "resuming-readers", "--turn", "0.2", "0.5", "--max-tokens", "90")
    assert status == 0, said
    assert "\n3 of 3 readers that lost their connection came back and missed nothing." in said


async def test_the_command_sends_the_same_readers_to_another_service_and_compares(serve: Serve, tmp_path: Path) -> None:
    """The other one has a key of its own, and its figures are its own, though the first one's admin port lies beside."""
    one, other = await serve(), await serve(api_keys=("theirs",))
    found, report = tmp_path / "r.json", tmp_path / "r.html"
    status, said = await command(
        one, "--prompt", "{{tokens=20 rate=100}}", "--against", other.url, "--against-admin", other.admin_url,
        "--against-key", "theirs", "--json", str(found), "--report", str(report),
    )  # fmt: skip
    assert status == 0, said
    assert "Side by side" in said
    told = json.loads(found.read_text("utf-8"))
    assert told["where"] == one.url
    assert told["against"]["where"] == other.url
    for each in (told, told["against"]):
        assert each["readers"]["fast"]["ends"] == {"finished": 4}
        assert each["service"]["outcomes"] == {"completed": 4}
    assert "Side by side" in report.read_text("utf-8")


async def test_an_interrupted_command_still_reports(service: Running, simulator: Simulator) -> None:
    status, said = await command(service, "--prompt", "{{tokens=5000 rate=10}}", interrupted_by=simulator.book(3))
    assert status == 0, said
    assert "4 streams started, 4 ended: 4 cut by the run's end." in said


@pytest.fixture
def mute() -> Iterator[str]:
    """The URL of what takes connections and says nothing of itself."""
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def refused(url: str, *options: str) -> str:
    """What the command says when it does not even begin."""
    result = CliRunner().invoke(load_command(), [url, *options])
    assert result.exit_code == 2
    return result.output


@pytest.mark.real
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--mix", "fats"), "fats"),
        (("--protocol", "messages", "--mix", "resuming"), "cannot be resumed"),
        (("--header", "nocolon"), "NAME: VALUE"),
        (("--turn", "3", "1"), "earliest"),
        (("--streams", "100000000", "--spend", "1e12"), "open files"),
        (("--preset", "slow-readers", "--mix", "fast"), "nothing to show"),
        (("--url", "http://127.0.0.1:1"), "given twice"),
        (("--spend", "0.000001"), "not enough for one"),
    ],
)
def test_the_command_refuses_what_cannot_be_done(options: tuple[str, ...], told: str, mute: str) -> None:
    assert told in refused(mute, *options)


@pytest.mark.real
@pytest.mark.parametrize(
    ("url", "why"), [("http://127.0.0.1:1", "connection refused"), ("unix:/nowhere", "no such file or directory")]
)
@pytest.mark.parametrize("options", [(), ("--spend", "9")])
def test_a_service_that_is_not_there_is_named_and_nothing_is_said_of_its_claude(
    url: str, why: str, options: tuple[str, ...]
) -> None:
    told = refused(url, *options)
    assert f"Error: {url} cannot be connected: {why}" in told
    assert "simulated" not in told


@pytest.mark.parametrize("url", ["ftp://h", "localhost:8080", "http://"])
def test_the_command_refuses_what_is_no_url(url: str) -> None:
    result = CliRunner().invoke(load_command(), [url])
    assert result.exit_code == 2
    assert "is neither" in result.output


@pytest.mark.real
def test_the_command_does_not_spend_money_unasked(mute: str) -> None:
    """A service that does not say that its Claude is simulated may have a real one; and here nobody can be asked."""
    told = refused(mute, "--streams", "7", "--model", "claude-opus-4-8", "--max-tokens", "1000000")
    assert "--spend" in told
    assert "25.0007 USD" in told
    assert "7 readers 175.01 USD" in told
