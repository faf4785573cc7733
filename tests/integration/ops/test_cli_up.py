"""``vcc up``: everything runs by one command, and nothing outlives it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy.engine import make_url

from tests.acceptance.stand import surroundings
from tests.conftest import open_folder
from tests.integration.ops.conftest import Vcc
from tests.integration.ops.test_cli_services import answer
from tests.waiting import until
from worker import settings
from worker.intake.sources.generate import write_backlog
from worker.server import free_port

VCC = [sys.executable, "-m", "worker.ops.cli"]


class Up:
    """A ``vcc up`` in a folder, and other commands beside it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._env = {**surroundings(), "VCC_HOME": str(folder / ".vcc")}
        with (folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [*VCC, "up", "--json", *options],
                cwd=folder,
                env=self._env,
                stdout=subprocess.PIPE,
                stderr=err,
            )
        assert self.process.stdout is not None
        self.ready: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def __call__(self, *arguments: object) -> Any:
        """Run another command in the same folder, and read its JSON."""
        done = subprocess.run(
            [*VCC, *map(str, arguments), "--json"],
            cwd=self.folder,
            env=self._env,
            stdout=subprocess.PIPE,
            check=True,
        )
        return json.loads(done.stdout)

    @property
    def said(self) -> str:
        """What it has said on stderr."""
        return (self.folder / "err").read_text()

    def left(self) -> list[psutil.Process]:
        """Those of its family that are still there."""
        return [one for one in self.family if _lives(one)]

    def end(self) -> None:
        """Leave nothing behind, whatever the test came to."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        until(lambda: not self.left(), seconds=30)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def up(*options: str) -> Iterator[Up]:
    """Run ``vcc up`` in a folder of its own."""
    with open_folder() as folder:
        house = Up(folder, *options)
        try:
            yield house
        finally:
            house.end()


def test_one_command_runs_everything_and_leaves_nothing() -> None:
    """Import, deliver, release, look; a worker that dies is replaced; SIGTERM stops all."""
    with up("--simulator") as house:
        write_backlog(house.folder / "backlog.mbox", 40, duplicates=3, broken=2)
        found = house("import", "backlog.mbox", "--route", "R", "--wait")
        assert (found["new"], found["sent"]) == (35, 35)
        assert all(one["ok"] for one in house("check"))
        (worker,) = [one for one in house.family if one.cmdline()[2:4] == ["worker.ops.cli", "worker"]]
        worker.kill()
        (row, *_) = house("list", "--state", "dispatched", "--limit", 1)
        house("release", row["externalid"])
        until(lambda: house("stats")["states"]["released"] == 1, seconds=40)
        assert "worker-1 ended with status 137; it is started again in 1 s" in house.said
        house.family = psutil.Process(house.process.pid).children(recursive=True)
        house.process.send_signal(signal.SIGTERM)
        assert house.process.wait(120) == 0
        until(lambda: not house.left())
        assert "Traceback" not in house.said
        assert not (house.folder / ".vcc" / "run.json").exists()


def test_a_killed_one_leaves_nothing_either() -> None:
    """``kill -9`` can't be caught, and yet all that it started ends."""
    with up("--simulator", "--workers", "2") as house:
        assert len(house.left()) > 6
        house.process.kill()
        house.process.wait()
        until(lambda: not house.left(), seconds=20)


def test_it_runs_in_this_process_too(vcc: Vcc, tmp_path: Path) -> None:
    """On the servers that are set, with Flower, for people; Ctrl-C ends it."""
    port = free_port()
    with open_folder() as home:
        settings.HOME = home / ".vcc"  # put back by the fixture that keeps the environment clean
        flower: list[int | None] = []

        def visit() -> None:
            try:
                until(settings.running)
                flower.append(until(lambda: answer(f"http://127.0.0.1:{port}/healthcheck")))
            finally:
                os.kill(os.getpid(), signal.SIGINT)

        with beside(visit):
            result = vcc("up", "--simulator", "--flower", "--port", port)
        assert result.code == 0
        assert flower == [200]
        assert "simulator" in result.out
        assert "vcc import" in result.out
        assert result.err == "stopping …\n"
        assert settings.running() == {}


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Do something beside the command."""
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize("secret", ["", "geheim"], ids=["without", "with"])
def test_credentials_that_are_missing_are_a_warning(
    vcc: Vcc, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    """Jobs can be recorded; what keeps them from being sent is said. Nothing that is secret is shown."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("VCC_CLIENT_ID", "me")
    monkeypatch.setenv("VCC_CLIENT_SECRET", secret)
    for name in ("VCC_API_URL", "VCC_AUTH_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    def stop() -> None:
        try:
            until(settings.running)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with beside(stop):
        result = vcc("up")
    assert result.code == 0
    assert ("calls wait as `unauthorised`" in result.err) is not bool(secret)
    for hidden in ("geheim", make_url(database_url).password or "", redis_url.partition("@")[0]):
        assert hidden not in result.out + result.err


def test_a_wrong_address_is_told_before_anything_starts(vcc: Vcc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that could call nobody are not started."""
    monkeypatch.setenv("VCC_API_URL", "http://example.test")
    result = vcc("up")
    assert result.code == 1
    assert result.err.startswith("error: VCC_API_URL: http://")
    assert not settings.HOME.exists()


def test_a_second_one_in_the_same_folder_is_refused(vcc: Vcc) -> None:
    """Two would fight for the same data."""
    settings.HOME.mkdir(parents=True)
    (settings.HOME / "run.json").write_text(
        json.dumps({"pid": os.getpid(), "env": {"REDIS_URL": "redis://x"}})
    )
    result = vcc("up")
    assert result.code == 1
    assert "stop that one first" in result.err


def test_a_simulator_that_does_not_start_is_told(
    vcc: Vcc, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log is named, and what had been started ends."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setattr("worker.ops.house.free_port", lambda: 0)
    result = vcc("up", "--simulator")
    assert result.code == 1
    assert "the simulator did not start: see" in result.err
