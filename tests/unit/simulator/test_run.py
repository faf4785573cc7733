"""Running it: in a thread, again on the same port, in the foreground."""

import ast
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

import worker.simulator
from tests.unit.simulator.caller import Caller, dispatch
from tests.waiting import until
from worker.simulator.faults import Faults, Status
from worker.simulator.run import Background, serve


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", trust_env=False, timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_it_imports_nothing_else_of_worker() -> None:
    """A witness that shared code with the accused would prove nothing."""
    for path in Path(worker.simulator.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module or ""]
            ours = [name for name in names if name.split(".")[0] == "worker"]
            assert all(name.startswith("worker.simulator.") for name in ours), path.name


def test_it_runs_with_faults_and_credentials_of_its_own() -> None:
    """The options of the start hold."""
    with Background(faults=Faults(status=Status(calls=1)), client_id="me", client_secret="s") as sim:
        caller = Caller(sim.url)
        assert caller.token().status_code == 401
        assert caller.token(client_id="me", client_secret="s").status_code == 200
        assert caller.invoke(dispatch()).status_code == 500
        assert caller.invoke(dispatch()).status_code == 401
        caller.http.close()


def test_it_starts_and_stops_quickly() -> None:
    """Start and stop wait for nobody, and nobody listens afterwards."""
    start = time.monotonic()
    with Background() as sim:
        assert _answers(sim.url)
    assert time.monotonic() - start < 20
    assert not _answers(sim.url)


def test_a_stopped_one_starts_again_with_its_book() -> None:
    """An outage: same port, same book, same tokens."""
    with Background() as sim:
        caller = Caller(sim.url)
        caller.log_in()
        caller.invoke(dispatch("a", requestid="1"))
        url = sim.url
        sim.stop()
        with pytest.raises(httpx.TransportError):
            caller.invoke(dispatch("b"))
        sim.start()
        assert sim.url == url
        assert caller.invoke(dispatch("a", requestid="1")).status_code == 200
        assert sim.book()["repeated_requestids"] == 1
        caller.http.close()


def test_a_stop_cuts_the_calls_in_hand() -> None:
    """A call whose answer is held up gets none when the simulator stops."""
    with Background(faults=Faults()) as sim:
        caller = Caller(sim.url)
        caller.log_in()
        sim.faults(delay={"by": 30})
        seen: list[str] = []

        def call() -> None:
            try:
                seen.append(str(caller.invoke(dispatch()).status_code))
            except httpx.RemoteProtocolError:
                seen.append("cut")

        thread = threading.Thread(target=call)
        thread.start()
        until(lambda: sim.book()["calls"] == 1)
    thread.join(60)
    caller.http.close()
    assert seen == ["cut"]


def test_a_stop_ends_connections_that_never_called() -> None:
    """A connection on which nothing was sent is closed by the stop."""
    with Background() as sim:
        idle = socket.create_connection(("127.0.0.1", int(sim.url.rpartition(":")[2])), timeout=60)
        assert _answers(sim.url)
    assert idle.recv(1) == b""
    idle.close()


def test_an_unknown_path_is_404(sim: Background, caller: Caller) -> None:
    """Only the documented paths and methods exist."""
    assert caller.http.post("/interactions/invoke").status_code == 404
    assert caller.http.get("/interactions/Invoke").status_code == 405


def test_it_serves_in_the_foreground_until_interrupted(capfd: pytest.CaptureFixture[str]) -> None:
    """``serve`` answers until Ctrl-C, returns then, and has printed nothing of what it was sent."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    statuses: list[int] = []

    def visit() -> None:
        until(lambda: _answers(url))
        caller = Caller(url)
        caller.log_in()
        statuses.append(caller.invoke(dispatch("a-customers-word")).status_code)
        caller.http.close()
        signal.raise_signal(signal.SIGINT)

    visitor = threading.Thread(target=visit)
    visitor.start()
    serve(port=port)
    visitor.join(60)

    assert statuses == [200]
    assert not _answers(url)
    assert capfd.readouterr() == ("", "")


def test_a_taken_port_is_an_error() -> None:
    """``serve`` says at once that it cannot listen."""
    with Background() as sim, pytest.raises(OSError, match="in use"):
        serve(port=int(sim.url.rpartition(":")[2]))
