"""What an upstream service imports, and what it must not have to."""

import subprocess
import sys

HEAVY = {"celery", "httpx", "kombu", "psycopg", "pydantic", "sqlalchemy"}


def test_client_is_light() -> None:
    """Importing the client brings nothing of the worker's own machinery."""
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import worker.client"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert "worker.client" in imported
    assert not {name.partition(".")[0] for name in imported} & HEAVY
    ours = {name for name in imported if name.startswith("worker.")}
    assert {name for name in ours if not name.startswith("worker.domain")} == {
        "worker.client",
        "worker.traceparent",
    }
