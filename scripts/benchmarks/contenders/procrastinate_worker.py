"""Run Procrastinate's workers: ``python -m benchmarks.contenders.procrastinate_worker PROCESSES CONCURRENCY``."""

import asyncio
import subprocess
import sys

from benchmarks.contenders.procrastinate import work

if __name__ == "__main__":
    processes, concurrency = sys.argv[1:]
    command = [sys.executable, "-m", "benchmarks.contenders.procrastinate_worker", "1", concurrency]
    others = [subprocess.Popen(command) for _ in range(int(processes) - 1)]
    asyncio.run(work(int(concurrency)))
