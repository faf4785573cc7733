"""The thread that delivers when it is told to."""

import threading

from tests.waiting import until
from worker.delivery.courier import Courier


def test_asked_while_it_works() -> None:
    """However often it is asked while it works, it looks once more, for what came after its last look."""
    started, go = threading.Semaphore(0), threading.Semaphore(0)

    def work() -> None:
        started.release()
        assert go.acquire(timeout=60)

    courier = Courier(work)
    courier.ask()
    assert started.acquire(timeout=60)
    courier.ask()
    courier.ask()
    go.release()
    assert started.acquire(timeout=60)
    go.release()
    courier.close()
    assert not started.acquire(blocking=False)


def test_close_waits_for_the_work() -> None:
    """Its end waits for the work under way, and begins no other."""
    done: list[None] = []
    started, go = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        assert go.wait(60)
        done.append(None)

    courier = Courier(work)
    courier.ask()
    assert started.wait(60)
    closing = threading.Thread(target=courier.close)
    closing.start()
    until(lambda: courier.over)
    go.set()
    closing.join(60)
    assert done == [None]
