"""A network between a worker and a server that can be cut, made slow, or left half-open."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Self
from urllib.parse import SplitResult, urlsplit, urlunsplit

CHUNK = 65_536


class Proxy:
    """A TCP proxy on a port of 127.0.0.1, in a thread of its own; a context manager.

    Args:
        url: of the server behind it.

    Attributes:
        url: the same by way of the proxy.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._connections: dict[asyncio.Task[Any], bool] = {}  # whether it is silent
        self._refuses = False
        self._silent = False
        self._lag = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        port = self._run(self._listen)
        self.url = urlunsplit(self._target._replace(netloc=_with_port(self._target, port)))
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """End every connection, and each new one at once, until ``mend``."""
        self._refuses = True
        self._run(lambda: self._end(only_silent=False))

    def delay(self, seconds: float) -> None:
        """Pass everything on that late, until ``mend``."""
        self._lag = seconds

    def half_open(self) -> None:
        """Pass nothing on and end nothing, until ``mend``; what is open now stays silent after that, too."""
        self._silent = True
        self._run(self._silence)

    def mend(self, *, ending: bool = False) -> None:
        """Let new connections go well; ``ending``: end those that are half-open, as a keepalive would."""
        self._refuses = self._silent = False
        self._lag = 0.0
        if ending:
            self._run(lambda: self._end(only_silent=True))

    def _run(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return asyncio.run_coroutine_threadsafe(make(), self._loop).result(60)

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _close(self) -> None:
        self._server.close()
        await self._end(only_silent=False)

    async def _end(self, *, only_silent: bool) -> None:
        tasks = [task for task, silent in self._connections.items() if silent or not only_silent]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _silence(self) -> None:
        self._connections = dict.fromkeys(self._connections, True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = self._silent
        ends = [writer]
        with suppress(OSError, asyncio.CancelledError):
            try:
                if not self._refuses:
                    back = await asyncio.open_connection(self._target.hostname, self._target.port)
                    ends.append(back[1])
                    await self._pass_both(task, (reader, back[1]), (back[0], writer))
            finally:
                del self._connections[task]
                for end in ends:
                    end.transport.abort()

    async def _pass_both(self, task: asyncio.Task[Any], *ways: Any) -> None:
        """Pass on in both directions until one has ended."""
        passing = [asyncio.ensure_future(self._pass(task, *way)) for way in ways]
        try:
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in passing:
                one.cancel()
            await asyncio.gather(*passing, return_exceptions=True)

    async def _pass(
        self, task: asyncio.Task[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while chunk := await reader.read(CHUNK):
            if self._lag:
                await asyncio.sleep(self._lag)
            if self._connections[task]:
                break
            writer.write(chunk)
            await writer.drain()
        if self._connections[task]:
            await asyncio.Event().wait()  # nobody hears of it
        writer.close()
        await writer.wait_closed()


def _with_port(target: SplitResult, port: int) -> str:
    credentials, at, _ = target.netloc.rpartition("@")
    return f"{credentials}{at}127.0.0.1:{port}"
