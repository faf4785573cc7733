"""``vcc web``: the page as a process."""

import json
import signal
from pathlib import Path

import httpx
import pytest

from tests.integration.ops.conftest import Vcc
from tests.integration.ops.test_cli_services import started
from tests.waiting import until
from worker.simulator.run import Background


def test_it_serves_and_ends(house: Background, tmp_path: Path) -> None:
    """It says where it is, answers, logs no query, and ends when it is told to, whoever is connected."""
    with started(tmp_path, "web", "--port", "0", "--json", VCC_LOG_FORMAT="json") as (process, log):
        url = until(lambda: [line for line in log.read_text().splitlines() if "url" in line], seconds=20)
        where = json.loads(url[0])["url"]
        with httpx.Client(base_url=where, trust_env=False) as browser:
            answer = browser.get("/interactions?error=My+parcel+never+came")
            assert answer.status_code == 200
            assert "server" not in answer.headers
            assert browser.get("/readyz").json() == {"database": "ready", "redis": "ready"}
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0  # though the browser is still connected
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line["path"] for line in lines if line.get("event") == "request"] == [
            "/interactions",
            "/readyz",
        ]
        assert "parcel" not in log.read_text()


def test_without_users_it_is_for_this_machine(house: Background, vcc: Vcc) -> None:
    """To listen elsewhere it wants users, and says how they are made."""
    result = vcc("web", "--host", "0.0.0.0")
    assert result.code == 2
    assert "VCC_WEB_USERS" in result.err
    assert "vcc user" in result.err


def test_users_that_can_t_be_read(house: Background, vcc: Vcc, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong entry is named by its number."""
    monkeypatch.setenv("VCC_WEB_USERS", "anna:operator:scrypt:nonsense")
    result = vcc("web", "--port", "0")
    assert result.code == 1
    assert "entry 1" in result.err
    assert "nonsense" not in result.err


def test_a_port_that_is_taken(house: Background, vcc: Vcc, simulator: Background) -> None:
    """It says so in one line."""
    result = vcc("web", "--port", simulator.url.rpartition(":")[2])
    assert result.code == 1
    assert "in use" in result.err
