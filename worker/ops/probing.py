"""Questions to servers that may be away, or hang: asked by a thread, so that whoever waits can give up."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Probe(Generic[T]):
    """One question; while it has no answer it is not asked again, so that a server that hangs hangs one thread."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._lock = Lock()
        self._asked: Future[T] | None = None

    def answer(self, seconds: float) -> T:
        """Ask, or wait with those who have asked already.

        Raises:
            TimeoutError: no answer in so many seconds.
            Exception: what the question raised.
        """
        with self._lock:
            if self._asked is None or self._asked.done():
                asked: Future[T] = Future()
                Thread(target=self._run, args=[asked], name="probe", daemon=True).start()
                self._asked = asked
            asked = self._asked
        return asked.result(seconds)

    def _run(self, asked: "Future[T]") -> None:
        try:
            asked.set_result(self._ask())
        except Exception as error:
            asked.set_exception(error)


def probe(state: Any, name: str, ask: Callable[[], T]) -> Probe[T]:
    """Give the application's probe of that name; made with its first use."""
    if not hasattr(state, "probes"):
        state.probes = {}
    made: Probe[T] = state.probes.setdefault(name, Probe(ask))
    return made
