"""Memory of one worker process after a million interactions, against that after ten thousand."""

from collections.abc import Iterator

import psutil

from benchmarks.contenders.ours import Ours
from benchmarks.figures import Figure
from benchmarks.stand import Stand, say, until

FEW, MANY, QUICK = 10_000, 1_000_000, 30_000
STEP = 99_000


def measure(stand: Stand, _rounds: int, quick: bool) -> Iterator[Figure]:
    """Let one worker send so many, once, the table being filled again and again; the API answers at once."""
    many = QUICK if quick else MANY
    ours = Ours(stand)
    ours.clean()
    stand.api.reset(0)
    worker = ours.start()
    process = psutil.Process(worker.pid)
    _send(stand, ours, FEW)
    first = _megabytes(process)
    done = FEW
    while done < many:
        step = min(STEP, many - done)
        _send(stand, ours, step)
        done += step
        say(f"{done:,} of {many:,} interactions: {_megabytes(process):.1f} MB")
    last = _megabytes(process)
    stand.kill(worker)
    yield Figure(f"memory of a worker after {FEW:,} interactions", first, "MB")
    yield Figure(f"memory of a worker after {many:,} interactions", last, "MB")
    yield Figure(
        f"memory of a worker after {many:,} interactions against {FEW:,}", last / first, "×", 1.1, least=False
    )


def _send(stand: Stand, ours: Ours, count: int) -> None:
    with stand.engine.begin() as conn:
        conn.exec_driver_sql("truncate interactions, invocations")  # the same work each time
    ours.fill_many(count)
    ours.let_go()
    until(lambda: ours.recorded() == count, every=0.2)


def _megabytes(process: psutil.Process) -> float:
    """What this process alone needs, pages that it shares with others left out."""
    return float(process.memory_full_info().uss / 1e6)
