"""The demonstration behind ``scripts/demo``: every number of its last table comes from the database and the book."""

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from worker import guard
from worker.intake.sources.generate import write_backlog

VCC = [sys.executable, "-m", "worker.ops.cli"]
ROUTE = "Route Interaction NR"
EMAILS, DUPLICATES, BROKEN, RELEASES = 1000, 60, 5, 200
STUMBLES = {"throttle": {"calls": 2, "retry_after": 2}, "status": {"calls": 2, "status": 500}}

console = Console(highlight=False)


def say(text: str) -> None:
    """Announce a step."""
    console.print(f"\n[bold cyan]▸[/] [bold]{text}[/]")


def vcc(*args: str, env: dict[str, str]) -> Any:
    """Run a command as an operator would, and read its --json."""
    shown = shlex.join(args[:5]) + (" …" if len(args) > 5 else "")
    console.print(f"  [dim]$ vcc {shown}[/]", soft_wrap=True)
    done = subprocess.run([*VCC, *args, "--json"], env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"vcc {args[0]} ended with {done.returncode}")
    return json.loads(done.stdout)


@contextmanager
def everything(env: dict[str, str], folder: Path) -> Iterator[dict[str, Any]]:
    """Run ``vcc up --simulator`` for as long as it is needed; gives what it says of itself."""
    reading, writing = os.pipe()
    # under guard: it ends with this process, however that ends
    up = guard.spawn([*VCC, "up", "--simulator", "--json"], env=env, cwd=folder, stdout=writing, grace=60)
    os.close(writing)
    try:
        with os.fdopen(reading) as said:
            line = said.readline()
        if not line:
            sys.exit("vcc up did not start; see above")
        yield json.loads(line)
    finally:
        up.stop()


def externalids(env: dict[str, str], count: int) -> list[str]:
    """Some externalids that are dispatched."""
    found = vcc("list", "--state", "dispatched", "--limit", str(count), env=env)
    return [row["externalid"] for row in found]


def settled(env: dict[str, str]) -> dict[str, Any]:
    """Wait until nothing is to be sent any more, and read the statistics."""
    end = time.monotonic() + 120
    while True:
        done = subprocess.run(
            [*VCC, "stats", "--json"], env=env, stdout=subprocess.PIPE, text=True, check=True
        )
        stats: dict[str, Any] = json.loads(done.stdout)
        if not any(stats["states"][state] for state in ("pending", "releasing", "waiting")):
            return stats
        if time.monotonic() > end:
            sys.exit("not everything was sent within two minutes")
        time.sleep(0.2)


def compare(stats: dict[str, Any], book: dict[str, Any], report: dict[str, int]) -> bool:
    """Print the table of all numbers; whether those that have to agree do."""
    states, calls = stats["states"], stats["invocations"]
    rows: list[tuple[str, int | None, int | None]] = [
        ("entries read", stats["duplicates"] + stats["rejections"] + sum(states.values()), report["read"]),
        ("duplicates, not dispatched", stats["duplicates"], report["duplicate"]),
        ("rejected, kept with the reason", stats["rejections"], report["rejected"]),
        ("interactions dispatched", states["dispatched"] + states["released"], book["dispatched"]),
        ("interactions released", states["released"], book["released"]),
        ("refused", states["failed"] + states["release_failed"], book["calls_by_status"].get("400", 0)),
        ("second dispatches of a live interaction", None, book["redispatched"]),
        ("releases of unknown interactions", None, book["unknown_releases"]),
        ("accepted calls", calls["accepted"], book["accepted_calls"]),
    ]
    statuses = sorted(calls["by_status"].keys() | book["calls_by_status"].keys())
    rows += [
        (f"calls answered {s}", calls["by_status"].get(s, 0), book["calls_by_status"].get(s, 0))
        for s in statuses
    ]
    table = Table("", "database", "witness", "", title="What the database says, and what the witness saw")
    for name, ours, theirs in rows:
        agree = theirs == (ours or 0)
        table.add_row(name, _shown(ours), _shown(theirs), "[green]✓[/]" if agree else "[red]✗[/]")
    console.print()
    console.print(table)
    console.print(
        "[dim]witness: the import's report for the first three, the simulator's book for the rest[/]"
    )
    return all(theirs == (ours or 0) for _, ours, theirs in rows)


def _shown(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def main() -> int:
    """Run it; 0 if everything agrees."""
    started = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="vcc-demo-") as name:
        folder = Path(name)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("VCC_")}
        env = {**kept, "VCC_HOME": str(folder / "home")}
        for mine in ("DATABASE_URL", "REDIS_URL"):
            env.pop(mine, None)
        source = Path(sys.argv[1]) if len(sys.argv) > 1 else folder / "backlog.mbox"
        if len(sys.argv) == 1:
            say(f"A backlog of {EMAILS:,} made-up emails: {DUPLICATES} duplicates, {BROKEN} broken ones")
            write_backlog(source, EMAILS, duplicates=DUPLICATES, broken=BROKEN)
        say("PostgreSQL, Redis, a worker, beat and the API's simulator")
        with everything(env, folder) as up:
            agree = show(env, up["simulator"], source, stumble=len(sys.argv) == 1)
    console.print(f"\n{'Everything agrees' if agree else 'The numbers do not agree'}; ", end="")
    console.print(f"{time.monotonic() - started:.0f} seconds, nothing left running.")
    return 0 if agree else 1


def show(env: dict[str, str], simulator: str, source: Path, *, stumble: bool) -> bool:
    """Import, release, compare."""
    vcc("check", env=env)
    if stumble:
        say("The API answers 429 and 500 for a while")
        httpx.post(f"{simulator}/_sim/faults", json=STUMBLES).raise_for_status()
    say("Import it, and wait until it is dispatched")
    report = vcc("import", str(source), "--route", ROUTE, "--wait", env=env)
    console.print("  " + ", ".join(f"{name} {value:,}" for name, value in report.items()), soft_wrap=True)
    say(f"Release {RELEASES} of them")
    vcc("release", *externalids(env, RELEASES), env=env)
    stats = settled(env)
    book = httpx.get(f"{simulator}/_sim/book").raise_for_status().json()
    return compare(stats, book, report)


if __name__ == "__main__":
    sys.exit(main())
