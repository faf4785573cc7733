"""Processes that begin as a copy of one that has imported what they need.

A worker needs more than a second of a core to import Celery, SQLAlchemy and the like, and a hundred are started here.
So a server that has imported the libraries, and nothing of ours, forks one at each start, from where it goes on as
``python -m`` does: with its own arguments, settings, folder, output and process group.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

from tests.waiting import until

LIBRARIES = [
    "alembic.command",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.concurrency.thread",
    "celery.worker.consumer",
    "httpx",
    "kombu.transport.redis",
    "msgspec.json",
    "opentelemetry.sdk.trace",
    "psycopg",
    "pydantic_settings",
    "rich.traceback",
    "sqlalchemy.dialects.postgresql.psycopg",
    "structlog",
    "tenacity",
]


class Process:
    """What was started; the part of ``subprocess.Popen`` that tests use."""

    def __init__(self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], output: Path) -> None:
        """Start a module with its arguments: ``["celery", "-A", "worker.app", "worker"]``."""
        self.args = list(arguments)
        self._process = _server().Process(
            target=_run, args=(self.args, str(cwd), dict(env), str(output)), daemon=True
        )
        self._process.start()
        self.pid: int = self._process.pid or 0
        with suppress(ProcessLookupError):  # it has ended already
            until(lambda: os.getpgid(self.pid) == self.pid)  # or its group could not be killed yet

    def poll(self) -> int | None:
        """Give the status it has ended with, if it has; less than 0: the signal."""
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        """Give the same."""
        return self.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: it has not come in time.
        """
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Tell it to stop."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


@cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context


def _run(arguments: list[str], cwd: str, env: dict[str, str], output: str) -> None:
    """Become ``python -m`` with these arguments."""
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = arguments
    sys.path.insert(0, cwd)
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which multiprocessing does of itself from Python 3.13 on
