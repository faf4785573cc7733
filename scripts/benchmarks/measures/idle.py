"""An idle node: CPU of worker, beat and page, and how often they ask Postgres and Redis."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.figures import Figure
from benchmarks.stand import Stand, say

SETTLE = 8.0
"""Seconds after which everything has started, imported and connected."""

STATEMENT = re.compile(rb"LOG:  duration: [^\n]*?(?:statement|execute [^:\n]*): ")
"""What Postgres logs of a statement; parsing and binding a prepared one are lines of their own, and don't count."""

COMMANDS = ("worker", "beat", "web")


def measure(stand: Stand, _rounds: int, quick: bool) -> Iterator[Figure]:
    """Let a node run with nothing to do, once; a minute says as much as three."""
    stand.clean()
    node = {name: _process(stand.start("worker.ops.cli", name)) for name in COMMANDS if _exists(name)}
    with _logged(stand) as log:
        time.sleep(SETTLE / 2 if quick else SETTLE)
        say(f"idle: {', '.join(node)}")
        start, size = time.monotonic(), log.stat().st_size
        cpu = {name: _cpu(process) for name, process in node.items()}
        commands = _commands(stand)
        time.sleep(3 if quick else 60)
        seconds = time.monotonic() - start
        used = {name: (_cpu(process) - cpu[name]) / seconds * 100 for name, process in node.items()}
        asked = (_commands(stand) - commands - 1) / seconds  # one of them was ours
        with log.open("rb") as file:
            file.seek(size)
            statements = len(STATEMENT.findall(file.read())) / seconds
    yield Figure(f"idle node ({', '.join(node)})", sum(used.values()), "% of a core", 2.0, least=False)
    for name, percent in used.items():
        yield Figure(f"  of that {name}", percent, "% of a core")
    yield Figure(
        "idle node: statements to Postgres, BEGIN and COMMIT too", statements, "/s", 5.0, least=False
    )
    yield Figure("idle node: commands to Redis", asked, "/s")


def _exists(command: str) -> bool:
    found = subprocess.run(
        [sys.executable, "-m", "worker.ops.cli", command, "--help"], capture_output=True, check=False
    )
    return found.returncode == 0


def _process(started: subprocess.Popen[bytes]) -> psutil.Process:
    return psutil.Process(started.pid)


def _cpu(process: psutil.Process) -> float:
    family = [process, *process.children(recursive=True)]
    return float(sum(times.user + times.system for times in (one.cpu_times() for one in family)))


def _commands(stand: Stand) -> int:
    return int(stand.redis.info("stats")["total_commands_processed"])


@contextmanager
def _logged(stand: Stand) -> Iterator[Path]:
    """Have Postgres log every statement, to be counted."""
    _set(stand, "alter system set log_min_duration_statement = 0")
    try:
        yield stand.folder / "log" / "postgres.log"
    finally:
        _set(stand, "alter system reset log_min_duration_statement")


def _set(stand: Stand, statement: str) -> None:
    with stand.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql(statement)
        conn.exec_driver_sql("select pg_reload_conf()")
