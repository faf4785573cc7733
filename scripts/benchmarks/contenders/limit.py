"""The limit: a bare script with no queue and no database, that only builds the largest bodies and sends them.

As many calls in flight as this project's worker has threads, each thread with its client; every body is encoded from
dicts for its call, for it has to build what it sends.

    python -m benchmarks.contenders.limit CALLS_AT_ONCE INTERACTIONS PER_CALL
"""

import json
import sys
import threading
import time
import uuid

import httpx
import msgspec

from benchmarks.contenders.peers import HEADERS, INVOKE, api
from benchmarks.jobs import LINKED, ROUTE
from worker.domain.job import LIMIT, envelope, interaction, size

REQUEST = {"linkeddata": LINKED, "routingdata": {"interactiontype": "nonlive"}}


def per_call(most: int = 500) -> int:
    """Compute how many of the stand's interactions one call takes: what 100 KB allow, and so many at most."""
    one = size(interaction("dispatch", str(uuid.uuid4()), f"e000-{0:08}", ROUTE, REQUEST))
    return min(most, (LIMIT - envelope("")) // (one + 1))


def main(at_once: int, count: int, each: int) -> float:
    """Send so many; seconds."""
    firsts = iter(range(0, count, each))
    lock = threading.Lock()
    ready = threading.Barrier(at_once + 1)

    def send() -> None:
        with httpx.Client(base_url=api(), headers=HEADERS | {"content-type": "application/json"}) as client:
            client.post("/Auth/connect/token")
            ready.wait()
            while True:
                with lock:
                    first = next(firsts, None)
                if first is None:
                    return
                requests = [
                    {
                        "action": "dispatch", "requestid": str(uuid.uuid4()), "externalid": f"l000-{i:08}",
                        "route": ROUTE, **REQUEST,
                    }
                    for i in range(first, min(first + each, count))
                ]  # fmt: skip
                client.post(INVOKE, content=msgspec.json.encode({"requests": requests})).raise_for_status()

    threads = [threading.Thread(target=send) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps({"seconds": main(*map(int, sys.argv[1:]))}))
