"""What a worker does when it is ready, so that its threads don't wait for each other."""

import gc
import sys

from celery import signals

from worker.app import SWITCH


def test_ready_worker_is_nimble() -> None:
    """Once ready, a worker leaves what it has loaded to no garbage collection, and its threads take turns sooner."""
    before = sys.getswitchinterval()
    try:
        signals.worker_ready.send(sender=None)
        assert gc.get_freeze_count() > 10_000
        assert sys.getswitchinterval() <= SWITCH < before
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)
