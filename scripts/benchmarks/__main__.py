"""The command behind ``scripts/bench``."""

# ruff: noqa: PLC0415 - what needs the packages is imported when something is measured, so that --list is at once
import argparse
import ast
import importlib
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.figures import Figure
    from benchmarks.report import Run
    from benchmarks.stand import Stand

MEASURES = Path(__file__).parent / "measures"
APART = ("api", "doors", "kill", "pools", "sizes")
"""Run only where they are named: no bar is among their figures, and some take long."""


def listed() -> dict[str, str]:
    """Name the measures with the first line of what each says of itself; nothing is imported for it."""
    found = {}
    for path in sorted(MEASURES.glob("[a-z]*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        found[path.stem] = text.partition("\n")[0]
    return found


def main() -> int:
    """Run what is asked for; 1 if a bar is not held in a full run."""
    known = listed()
    options = _options()
    given = options.parse_args()
    if given.list:
        for name, text in known.items():
            print(f"{name:14} {text}")
        return 0
    if unknown := set(given.measures) - known.keys():
        options.error(f"no such measure: {', '.join(unknown)}; --list names them")
    if given.read:
        from benchmarks.report import Run

        run = Run.read(given.read.read_text())
    else:
        chosen = given.measures or [name for name in known if name not in APART]
        run = _measure(chosen, 0 if given.quick else given.rounds, given.json)
    if given.write:
        if not run.rounds:
            options.error("a quick run is not for the docs")
        from benchmarks.report import write

        write(run)
    return 0 if run.held else 1


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="scripts/bench", description="Measure what the docs claim.")
    options.add_argument("measures", metavar="MEASURE", nargs="*", help=f"all but {', '.join(APART)} without")
    options.add_argument("--list", action="store_true", help="say what can be measured")
    options.add_argument("--quick", action="store_true", help="small and once: under two minutes, not judged")
    options.add_argument("--rounds", type=_positive, default=3, metavar="N", help="medians of so many (3)")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the run there")
    options.add_argument(
        "--read", type=Path, metavar="FILE", help="measure nothing: take a run that was written"
    )
    options.add_argument("--write", action="store_true", help="put the run into docs/benchmarks.md")
    return options


def _positive(text: str) -> int:
    if not 1 <= (number := int(text)) <= 100:
        raise argparse.ArgumentTypeError("1 to 100")
    return number


def _measure(chosen: list[str], rounds: int, file: Path | None) -> "Run":
    """Measure one after the other; 0 rounds: quickly. The file always holds what there is so far."""
    from benchmarks.figures import Figure
    from benchmarks.report import Run
    from benchmarks.stand import stand

    with stand() as ready:
        run = Run.here(ready.versions(), rounds)
        for name in chosen:
            try:
                run.measures[name] = _one(ready, name, rounds)
            except Exception as error:  # the others are worth having all the same
                traceback.print_exc()
                run.measures[name] = [
                    Figure(f"{name}: could not be measured ({type(error).__name__})", 0, "", 1)
                ]
            if file:
                file.write_text(run.as_json())
    return run


def _one(ready: "Stand", name: str, rounds: int) -> "list[Figure]":
    """Measure one thing, and print it."""
    from benchmarks.report import show
    from benchmarks.stand import say

    say(f"{name} …")
    start = time.monotonic()
    try:
        module = importlib.import_module(f"benchmarks.measures.{name}")
        figures = list(module.measure(ready, rounds or 1, not rounds))
    finally:
        ready.kill()
    say(f"{name}: {time.monotonic() - start:.0f} s")
    show(name if rounds else f"{name} (quick: not judged)", figures, judged=rounds > 0)
    return figures


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    sys.exit(main())
