"""``vcc --help`` against a Python that imports typer and rich."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, median
from benchmarks.stand import Stand

RUNS = 15
HELP = (str(Path(sys.executable).with_name("vcc")), "--help")
BARE = (sys.executable, "-c", "import typer, rich")


def measure(_stand: Stand, rounds: int, quick: bool) -> Iterator[Figure]:
    """Start both in turn."""
    ours, bare = [], []
    for _ in range(5 if quick else RUNS * rounds):
        ours.append(_seconds(HELP))
        bare.append(_seconds(BARE))
    yield Figure("vcc --help", median(ours), "s")
    yield Figure(
        "vcc --help against typer and rich imported", median(ours) / median(bare), "×", 1.3, least=False
    )


def _seconds(command: tuple[str, ...]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start
