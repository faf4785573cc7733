"""RabbitMQ over TLS: its certificate is held against the authorities that the machine knows, and its host's name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.stand import ROOT
from tests.certificate import TlsServer


@pytest.mark.parametrize(("host", "known", "heard"), [
    ("localhost", True, True),
    ("localhost", False, False),
    ("127.0.0.2", True, False),
])  # fmt: skip
def test_who_is_spoken_to(tmp_path: Path, host: str, known: bool, heard: bool) -> None:
    """A server hears a word where its certificate is vouched for and is its own, and only there."""
    server = TlsServer(tmp_path)
    code = "from worker.app import app; app.connection_for_read().ensure_connection(max_retries=1, timeout=2)"
    env = {
        **os.environ,
        "VCC_BROKER_URL": f"amqps://user:hush@{host}:{server.port}//",
        **({"SSL_CERT_FILE": str(server.pem)} if known else {}),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, env=env, capture_output=True, check=False
    )
    server.close()
    assert done.returncode
    assert any(said.startswith(b"AMQP") for said in server.heard) is heard
