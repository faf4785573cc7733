"""Run a module in a process whose clock is off: ``python -m tests.chaos.skewed SECONDS MODULE ARGS…``."""

import runpy
import sys
import time

import time_machine


def main() -> None:
    """Set the clock, then become the module."""
    _, seconds, module, *args = sys.argv
    time_machine.travel(time.time() + float(seconds), tick=True).start()
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
