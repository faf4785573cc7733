"""``scripts/chaos``: faults against the whole system under load, then the table held against the API's book."""

import json
import os
import random
import secrets
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tests.chaos.canary import sing
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.judge import Verdict, judge
from tests.chaos.load import Producers, plan
from tests.chaos.outage import outage as play_outage
from tests.chaos.rest import muster, resend, rest
from tests.chaos.system import System, running

LIMIT = float(os.environ.get("CHAOS_LIMIT", "30"))
"""Seconds in which the system has to serve again after a fault."""

QUICK = [
    "worker-killed",
    "connections-dropped",
    "postgres-killed",
    "redis-killed",
    "cut-after",
]
"""What ``--quick`` plays."""

GAP = 2.0
"""Seconds of peace before a fault."""

console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120)


@dataclass
class Played:
    """How a fault went.

    Attributes:
        times: how often it was played.
        recovered: seconds until the system served again, the longest; None where it did not.
        meanwhile: seconds that canaries took while it lasted, where the other node had to serve.
    """

    fault: str
    times: int = 0
    recovered: float | None = 0.0
    meanwhile: float | None = 0.0

    @property
    def fine(self) -> bool:
        """Whether it was in time."""
        return all(took is not None and took <= LIMIT for took in (self.recovered, self.meanwhile))

    def add(self, recovered: float | None, meanwhile: float | None) -> None:
        """Count one more time."""
        self.times += 1
        self.recovered = _longest(self.recovered, recovered)
        self.meanwhile = _longest(self.meanwhile, meanwhile)


def _longest(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)


def say(text: str) -> None:
    """Tell what happens, with the time."""
    console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {text}")


def play(system: System, fault: Fault, rng: random.Random, scale: float) -> tuple[float | None, float | None]:
    """Play a fault; the seconds until the system served again, and those that canaries took meanwhile."""
    meanwhile: float | None = 0.0
    with ThreadPoolExecutor(1) as pool:
        with fault.play(system, rng):
            canaries = pool.submit(sing, system) if fault.serves else None
            time.sleep(fault.seconds * scale)
        recovered = sing(system)
        if canaries is not None:
            meanwhile = canaries.result()
    return recovered, meanwhile


def endure(system: System, order: list[Fault], rng: random.Random, scale: float) -> dict[str, Played]:
    """Play all the faults, one after the other."""
    found: dict[str, Played] = {}
    for number, fault in enumerate(order, 1):
        time.sleep(GAP * scale)
        recovered, meanwhile = play(system, fault, rng, scale)
        found.setdefault(fault.name, Played(fault.name)).add(recovered, meanwhile)
        told = "not recovered" if recovered is None else f"recovered in {recovered:.1f} s"
        say(f"{number}/{len(order)} {fault.name}: {told}")
    return found


def run(
    seed: Annotated[int | None, typer.Option(help="Of an earlier run, to have the same again.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="1,000 dispatches and a few short faults: a minute or two.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=10, help="Dispatches; half as many releases.", show_default="20000")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each fault strikes.")] = 1,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="Over which jobs are sent; else as long as the faults take.")
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(min=0.1, max=10, help="Makes each fault shorter or longer.", show_default="1"),
    ] = None,
    fault: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this one (may be repeated).")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Only list the faults.")] = False,
    outage: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="Instead: a long outage of the API.")
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="Leave logs and data in this new folder.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on stdout, nothing else there.")
    ] = False,
) -> None:
    """Break the whole system under load, and see that nothing is lost and nothing happens twice.

    Postgres, Redis, the API's stand-in and two nodes of a worker and a beat each are started on this machine. Jobs go
    in through every door while one fault after the other strikes. At the end the table is held against the API's own
    book: once as it is, and once more when the producers have sent everything again under the same requestids. Exit
    status 1: something was lost, doubled, stuck or wrongly ended, or did not recover in 30 seconds.
    """
    if listed:
        print("\n".join(FAULTS))
        return
    if unknown := set(fault or ()) - FAULTS.keys():
        raise typer.BadParameter(f"no such fault: {min(unknown)}; --list has them", param_hint="--fault")
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(exist_ok=keep is None, parents=True)
        with running(folder) as system:
            if outage is not None:
                figures, good = play_outage(system, outage, say)
            else:
                names = (fault or (QUICK if quick else list(FAULTS))) * rounds
                seed = secrets.randbelow(10**6) if seed is None else seed
                order = Order(
                    names=names,
                    jobs=jobs or (1_000 if quick else 20_000),
                    scale=scale or (0.3 if quick else 1.0),
                    seconds=seconds,
                    patient=not quick,
                )
                say(f"seed {seed}: {order.jobs:,} dispatches, {len(names)} faults")
                figures, good = chaos(system, order, random.Random(seed))
                figures = {"seed": seed, **figures}
    if as_json:
        print(json.dumps(figures, indent=2))
    elif outage is not None:
        console.print_json(json.dumps(figures))
    console.print("[bold green]as promised[/]" if good else "[bold red]NOT as promised[/]")
    sys.exit(0 if good else 1)


@dataclass(frozen=True)
class Order:
    """What is to be played.

    Attributes:
        names: of the faults.
        jobs: dispatches.
        scale: of each fault's time.
        seconds: over which the jobs are sent; None: as long as the faults will take.
        patient: wait for what Celery gives back of dead workers, after 150 seconds.
    """

    names: list[str]
    jobs: int
    scale: float
    seconds: float | None
    patient: bool


def chaos(system: System, order: Order, rng: random.Random) -> tuple[dict[str, Any], bool]:
    """Play everything; the figures, and whether all is as promised."""
    faults = [FAULTS[name] for name in order.names]
    rng.shuffle(faults)
    load = plan(order.jobs, order.jobs // 2, rng)
    sing(system)  # all is up
    # a fault takes its time, its recovery and a little peace
    seconds = order.seconds or sum(fault.seconds * order.scale + 8 * min(order.scale, 1) for fault in faults)
    producers = Producers(system, load, seconds)
    played = endure(system, faults, rng, order.scale)
    producers.finish()
    say(f"all sent and all faults over; at rest after {rest(system, patient=order.patient):.1f} s")
    first = judge(system, load, complete=False)
    nodes = muster(system)
    say("every job once more under its requestid")
    resend(system, load, rng)
    last = judge(system, load, complete=True)
    orphans = system.orphans()
    report(played, nodes, first, last)
    if orphans:
        say(f"[red]processes that outlived their parents: {orphans}")
    good = (
        all(p.fine for p in played.values())
        and all(took is not None and took <= LIMIT for took in nodes.values())
        and not (first.counts or last.counts or last.unrecorded or orphans)
        and (not first.unrecorded.keys() - {"celery"} or "redis-lost" in order.names)
    )
    return {
        "faults": [asdict(p) for p in played.values()],
        "each_node_alone": nodes,
        "before_resending": _figures(first),
        "after_resending": _figures(last),
        "orphans": orphans,
    }, good


def _figures(verdict: Verdict) -> dict[str, Any]:
    return {
        **{what: verdict.counts[what] for what in ("lost", "double", "stuck", "wrong")},
        "unrecorded": dict(verdict.unrecorded),
        "states": dict(verdict.states),
        "examples": verdict.examples,
    }


def report(played: dict[str, Played], nodes: dict[str, float | None], first: Verdict, last: Verdict) -> None:
    """Print the tables."""
    table = Table("fault", "times", "served meanwhile in", "recovered in")
    for one in sorted(played.values(), key=lambda p: p.fault):
        style = None if one.fine else "red"
        meanwhile = _seconds(one.meanwhile) if FAULTS[one.fault].serves else ""
        table.add_row(one.fault, str(one.times), meanwhile, _seconds(one.recovered), style=style)
    for name, took in nodes.items():
        table.add_row(f"node {name} alone", "", "", _seconds(took))
    console.print(table)
    table = Table("", "lost", "double", "stuck", "wrong", "not recorded", "states")
    for when, verdict in (("as recorded", first), ("all sent again", last)):
        counts = [str(verdict.counts[what]) for what in ("lost", "double", "stuck", "wrong")]
        table.add_row(when, *counts, _counted(verdict.unrecorded), _counted(verdict.states))
    console.print(table)
    for example in first.examples + last.examples:
        console.print(f"[red]{example}")


def _seconds(took: float | None) -> str:
    return "not at all" if took is None else f"{took:.1f} s"


def _counted(counts: Any) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in sorted(counts.items())) or "0"


if __name__ == "__main__":
    typer.run(run)
