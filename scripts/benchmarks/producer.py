"""A service that enqueues jobs one by one, in a process of its own.

    python -m benchmarks.producer CONTENDER COUNT PREFIX

It enqueues a few to warm up, says ``ready``, waits for a line, enqueues, and says when it began and ended.
"""

import json
import sys
import time
from collections.abc import Callable

from benchmarks.jobs import Job, jobs

WARM = 50


def way(contender: str) -> Callable[[Job], object]:
    """Give the contender's way to enqueue one job."""
    if contender == "ours":
        import os  # noqa: PLC0415 - each producer imports what its way needs, as a service would

        from worker.client import Client  # noqa: PLC0415

        client = Client(os.environ["REDIS_URL"])
        return lambda job: client.dispatch(**job)
    from benchmarks.contenders.textbook import dispatch  # noqa: PLC0415

    return lambda job: dispatch.delay(**job)


def main(contender: str, count: int, prefix: str) -> None:
    """Enqueue so many."""
    enqueue = way(contender)
    for job in jobs(WARM, f"{prefix}warm-"):
        enqueue(job)
    made = jobs(count, prefix)
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.monotonic()
    for job in made:
        enqueue(job)
    print(json.dumps({"start": start, "end": time.monotonic()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
