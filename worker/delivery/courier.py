"""A thread that delivers whenever it is told that something was recorded: no hop through a queue.

Told while it is at it, it looks once more. Killed, or never told: the next tick has the rows delivered.
"""

import threading
from collections.abc import Callable


class Courier:
    """Works in a thread of its own, each time that it is asked to.

    Args:
        work: delivers until nothing is due; raises nothing.

    Attributes:
        over: it is to end.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._asked = threading.Event()
        self.over = False
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Have it look at what is due."""
        self._asked.set()

    def close(self) -> None:
        """End it, with the call that is under way."""
        self.over = True
        self._asked.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._asked.wait()
            # first this, then the look at the table: whoever records after that asks again
            self._asked.clear()
            if self.over:
                return
            self._work()
