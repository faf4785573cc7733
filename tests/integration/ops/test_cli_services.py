"""What runs the house: worker, beat, Flower, the simulator."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.ops.conftest import Vcc
from tests.waiting import until
from worker.server import free_port
from worker.simulator.run import Background


@contextmanager
def started(folder: Path, *arguments: str, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a command beside the test, its output in a file."""
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.ops.cli", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
        )
    try:
        yield process, log
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def answer(url: str, **options: str) -> int | None:
    """Tell the status that a URL answers, None while nobody does."""
    try:
        return httpx.get(url, trust_env=False, timeout=60, **options).status_code  # type: ignore[arg-type]
    except httpx.TransportError:
        return None


@pytest.mark.parametrize(
    "arguments", [[], ["--pool", "prefork", "--concurrency", "2"]], ids=["threads", "prefork"]
)
def test_a_worker_delivers_and_stops(
    vcc: Vcc, house: Background, tmp_path: Path, arguments: list[str]
) -> None:
    """Started by its command it sends what is dispatched; SIGTERM ends it in good order."""
    with started(tmp_path, "worker", *arguments, "--", "-n", "w@test") as (process, log):
        until(lambda: b"ready" in log.read_bytes(), seconds=30)
        vcc("dispatch", "e", "--route", "R")
        until(lambda: house.book()["calls"] == 1, seconds=20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    assert b"Traceback" not in log.read_bytes()
    [made] = [line for line in lines(log, but="worker: Warm shutdown") if line["event"] == "call made"]
    assert (made["worker"], made["externalid"], made["outcome"]) == ("w@test", "e", "accepted")


def lines(log: Path, but: str) -> list[dict[str, Any]]:
    """Read a log, each line of which is an object, but for one that does not pass through it."""
    return [json.loads(line) for line in log.read_text().splitlines() if line and not line.startswith(but)]


def test_beat_ticks(house: Background, tmp_path: Path) -> None:
    """The clock sends its tasks and stops when told to; its log, too, is an object a line."""
    with started(tmp_path, "beat") as (process, log):
        until(lambda: b"vcc.sweep" in log.read_bytes(), seconds=30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    assert {line["level"] for line in lines(log, but="(nothing)")} == {"info"}


def test_flower_asks_for_the_password(house: Background, tmp_path: Path) -> None:
    """With FLOWER_BASIC_AUTH its pages are closed to others."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api/task/types"
    with started(tmp_path, "flower", "--port", str(port), FLOWER_BASIC_AUTH="me:word") as (_, log):
        until(lambda: answer(url), seconds=30)
        assert answer(url) == 401
        assert httpx.get(url, trust_env=False, auth=("me", "word")).status_code == 200
    assert len(lines(log, but="(nothing)")) > 1


@pytest.mark.parametrize(
    ("variable", "arguments"),
    [("FLOWER_ADDRESS", []), ("X", ["--", "--address=0.0.0.0"])],
    ids=["variable", "argument"],
)
def test_flower_does_not_start_where_anybody_may_come_in(
    house: Background, tmp_path: Path, variable: str, arguments: list[str]
) -> None:
    """An open address without a password is wrong use, wherever it is set; the remedy is told."""
    with started(tmp_path, "flower", *arguments, **{variable: "0.0.0.0"}) as (process, log):
        assert process.wait(120) == 2
    assert "FLOWER_BASIC_AUTH" in log.read_text()


def test_a_password_is_no_argument(vcc: Vcc, house: Background) -> None:
    """Everybody on the machine could read it."""
    result = vcc("flower", "--", "--basic_auth=me:word")
    assert result.code == 2
    assert "FLOWER_BASIC_AUTH" in result.err


def test_what_is_not_installed_is_told(vcc: Vcc, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that has it is named."""
    monkeypatch.setitem(sys.modules, "flower", None)
    result = vcc("flower")
    assert result.code == 1
    assert result.err == "error: flower is not installed: pip install 'vcc-worker[embedded]'\n"


def test_celerys_own_arguments_are_passed_on(vcc: Vcc, house: Background) -> None:
    """What Celery does not know either is wrong use."""
    result = vcc("worker", "--", "--nonsense")
    assert result.code == 2
    assert "--nonsense" in result.err


@pytest.mark.parametrize(
    ("command", "variable", "value", "words"),
    [
        ("worker", "DATABASE_URL", "", "DATABASE_URL is not set"),
        ("worker", "REDIS_URL", "", "REDIS_URL is not set"),
        ("beat", "REDIS_URL", "", "REDIS_URL is not set"),
        ("worker", "VCC_API_URL", "http://example.test", "VCC_ALLOW_HTTP"),
        ("worker", "VCC_AUTH_URL", "ftp://example.test", "VCC_AUTH_URL"),
        ("worker", "VCC_TIMEOUT", "soon", "VCC_TIMEOUT"),
    ],
)
def test_settings_are_checked_before_anything_starts(
    vcc: Vcc,
    house: Background,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    variable: str,
    value: str,
    words: str,
) -> None:
    """A worker that could do nothing says why instead of starting."""
    monkeypatch.setenv(variable, value)
    result = vcc(command)
    assert result.code == 1
    assert words in result.err
    assert result.err.count("\n") == 1


def test_the_simulator_runs_with_the_faults_asked_for(vcc: Vcc) -> None:
    """Options and JSON together make its faults; Ctrl-C is how it ends."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    found: dict[str, object] = {}

    def visit() -> None:
        try:
            until(lambda: answer(f"{url}/healthz"))
            found.update(httpx.get(f"{url}/_sim/faults", trust_env=False, timeout=60).json())
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    visitor = threading.Thread(target=visit)
    visitor.start()
    result = vcc(
        "simulate", "--port", port, "--throttle", 2, "--retry-after", 3, "--errors", 1, "--delay", 0.5,
        "--rate", 9, "--poison", "a", "--refuse-route", "R", "--faults", '{"html503": {"calls": 4}}',
    )  # fmt: skip
    visitor.join()
    assert result.code == 0
    assert url in result.err
    assert found == {
        "throttle": {"calls": 2, "retry_after": 3.0},
        "status": {"calls": 1, "status": 500},
        "delay": {"by": 0.5},
        "rate": 9,
        "poison": ["a"],
        "refuse_routes": ["R"],
        "html503": {"calls": 4},
    }


def test_a_taken_port_has_its_remedy(vcc: Vcc, simulator: Background) -> None:
    """Two can't listen at one port."""
    result = vcc("simulate", "--port", simulator.url.rpartition(":")[2])
    assert result.code == 1
    assert "choose another --host or --port" in result.err
