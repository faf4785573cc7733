"""Run the simulator: in the foreground, or in a thread for tests."""

import asyncio
import contextlib
import socket
import threading
from typing import Any, Self, cast

import httpx
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from worker.simulator.app import Simulator, create_app
from worker.simulator.faults import Faults
from worker.simulator.tokens import Tokens


class CuttableProtocol(H11Protocol):
    """HTTP whose connection the app can close without a word: ASGI has no message for that."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Hand the app, in ``scope["state"]``, the way to cut this connection."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "cut": self.cut}

    def cut(self) -> None:
        """Close the connection; a call that is not answered yet never will be."""
        if self.cycle is not None:
            # Else uvicorn answers 500 for an app that returned without having answered.
            self.cycle.disconnected = True
        self.transport.close()


class _Server(uvicorn.Server):
    def __init__(self, app: Starlette) -> None:
        # Silent, since access and error logs may hold what a caller sent; stops without waiting for
        # answers that are held up.
        config = uvicorn.Config(
            app,
            http=CuttableProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=0,
        )
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn would answer 500 to the calls in hand; an API that dies does not.
        for connection in cast("list[CuttableProtocol]", list(self.server_state.connections)):
            connection.cut()
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    # The protocol is named because asyncio turns Nagle's delay (40 ms a call) off only where it is.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def serve(
    host: str = "127.0.0.1",
    port: int = 8900,
    *,
    faults: Faults | None = None,
    client_id: str = "simulator",
    client_secret: str = "simulator",  # noqa: S107 - there is nothing behind it
    token_seconds: float = 7200,
    allowance: float = 0.0,
) -> None:
    """Run the simulator until Ctrl-C or SIGTERM.

    Args:
        host: the address to listen at.
        port: the port to listen at.
        faults: what goes wrong from the start.
        client_id: the one client that gets a token.
        client_secret: its secret.
        token_seconds: how long a token holds.
        allowance: seconds after a 429 in which further calls are not yet counted as made while throttled.

    Raises:
        OSError: the port is taken, or the address is not one of this machine's.
    """
    simulator = Simulator(faults or Faults(), Tokens(client_id, client_secret, token_seconds), allowance)
    listener = _listen(host, port)
    with contextlib.suppress(KeyboardInterrupt):
        _Server(create_app(simulator)).run([listener])


class Background:
    """The simulator in a thread, for tests: a context manager, or ``start`` and ``stop``.

    A stopped one may be started again: same port, same book, same faults.

    Args:
        faults: what goes wrong from the start.
        client_id: the one client that gets a token.
        client_secret: its secret.
        token_seconds: how long a token holds.
        allowance: seconds after a 429 in which further calls are not yet counted as made while throttled.

    Attributes:
        url: the base of both the API's and the token's URL, known from the first start on.
    """

    def __init__(
        self,
        *,
        faults: Faults | None = None,
        client_id: str = "simulator",
        client_secret: str = "simulator",  # noqa: S107 - there is nothing behind it
        token_seconds: float = 7200,
        allowance: float = 0.0,
    ) -> None:
        tokens = Tokens(client_id, client_secret, token_seconds)
        self._app = create_app(Simulator(faults or Faults(), tokens, allowance))
        self._port = 0
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and return as soon as calls are answered; a free port the first time."""
        listener = _listen("127.0.0.1", self._port)
        self._port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._server = _Server(self._app)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="simulator", daemon=True
        )
        self._thread.start()
        if not self._server.ready.wait(60):
            raise TimeoutError("the simulator did not start within 60 seconds")
        self._control = httpx.Client(base_url=self.url, trust_env=False, timeout=60)

    def stop(self) -> None:
        """Stop listening and drop every open connection."""
        self._control.close()
        self._server.should_exit = True
        self._thread.join(60)

    def faults(self, **faults: Any) -> None:
        """Script faults on top of those in force, as ``POST /_sim/faults`` does."""
        self._ask("POST", "/_sim/faults", json=faults)

    def clear_faults(self) -> None:
        """Let everything go well again."""
        self._ask("DELETE", "/_sim/faults")

    def book(self, full: bool = False) -> dict[str, Any]:
        """Read the witness's book; ``full`` with the ledger and the log."""
        return dict(self._ask("GET", "/_sim/book", params={"full": int(full)}))

    def new_book(self) -> None:
        """Start the book anew."""
        self._ask("DELETE", "/_sim/book")

    def last(self) -> dict[str, Any]:
        """Read the last call's ``headers`` and ``body``; raises httpx.HTTPStatusError before the first."""
        return dict(self._ask("GET", "/_sim/last"))

    def calls(self) -> list[dict[str, Any]]:
        """Read the last 200 calls with their bodies."""
        return list(self._ask("GET", "/_sim/calls"))

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        return self._control.request(method, path, **options).raise_for_status().json()
