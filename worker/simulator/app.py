"""The simulator's routes.

==============================  =====================================================================
``POST /Auth/connect/token``    a bearer token for client credentials
``POST /interactions/Invoke``   dispatch and release
``GET /_sim/book``              what an honest witness saw; ``?full=1`` with the ledger and the log
``DELETE /_sim/book``           a new book, and every requestid and interaction forgotten
``GET /_sim/last``              the last call: its headers and its body
``GET /_sim/calls``             the last 200 calls, whole
``GET /_sim/faults``            the faults in force
``POST /_sim/faults``           script some more (``worker.simulator.faults`` has the JSON)
``DELETE /_sim/faults``         let everything go well again
``GET /healthz``                200
==============================  =====================================================================
"""

import asyncio
import time
from collections.abc import Callable, Mapping

import msgspec
from msgspec import Raw
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from worker.simulator.answers import Accepted, Cut, Dripping, Throttled, garbled, json_answer, message
from worker.simulator.book import Book, Call
from worker.simulator.contract import MAX_BODY, NOT_JSON, Invocation, Refusal, check_headers, read
from worker.simulator.faults import Door, Faults
from worker.simulator.script import Script
from worker.simulator.tokens import Tokens


class Simulator:
    """The API's state and what it answers.

    Args:
        faults: what goes wrong from the start.
        tokens: the credentials that are known.
        allowance: seconds after a 429 in which further calls are not yet counted as made while throttled.
    """

    def __init__(self, faults: Faults, tokens: Tokens, allowance: float = 0.0) -> None:
        self._script = Script(faults)
        self._tokens = tokens
        self._allowance = allowance
        self._book = Book(allowance)

    async def invoke(self, request: Request) -> Response:
        """Dispatch and release (*Create inbound interaction*)."""
        at = time.time()
        body = await request.body()
        found = read(body)
        await self._be_late(request.headers)
        answer = self._answer("invoke", lambda: self._process(request.headers, found, at))
        self._enter(at, request.headers, body, found, answer)
        if isinstance(answer, Throttled):
            answer.background = BackgroundTask(self._throttled, answer)
        return await self._hold_up("invoke", answer)

    async def token(self, request: Request) -> Response:
        """Give a bearer token (*Authentication (Interactions API)*)."""
        body = await request.body()
        answer = self._answer("token", lambda: self._issue(request.headers, body))
        return await self._hold_up("token", answer)

    async def show_book(self, request: Request) -> Response:
        """Show what the witness saw."""
        full = request.query_params.get("full", "0") not in ("", "0")
        return json_answer(self._book.full() if full else self._book.summary())

    async def new_book(self, _: Request) -> Response:
        """Start anew: counts, requestids and interactions are forgotten, tokens and faults stay."""
        self._book = Book(self._allowance)
        return json_answer({})

    async def show_calls(self, _: Request) -> Response:
        """Show the last calls whole."""
        return json_answer(list(self._book.kept))

    async def show_last(self, _: Request) -> Response:
        """Show the last call whole; 404 before the first."""
        return json_answer(self._book.kept[-1]) if self._book.kept else message(404, "No call yet")

    async def show_faults(self, _: Request) -> Response:
        """Show the faults that were asked for."""
        return json_answer(self._script.faults)

    async def script_faults(self, request: Request) -> Response:
        """Script faults on top of those in force; 400 says what is wrong with them."""
        try:
            self._script.merge(msgspec.json.decode(await request.body(), type=dict))
        except NOT_JSON as error:
            return message(400, str(error))
        return json_answer(self._script.faults)

    async def clear_faults(self, _: Request) -> Response:
        """Let everything go well again."""
        self._script.clear()
        return json_answer(self._script.faults)

    async def healthz(self, _: Request) -> Response:
        """Say that the simulator runs."""
        return json_answer({})

    def _answer(self, door: Door, process: Callable[[], Response]) -> Response:
        if self._script.fires("cut_before", door):
            return Cut()
        if (scripted := self._script.answer(door)) is not None:
            return scripted
        answer = process()
        if answer.status_code != 200:
            return answer
        if self._script.fires("cut_after", door):
            return Cut()
        return garbled() if self._script.fires("garbled", door) else answer

    def _process(self, headers: Mapping[str, str], found: Invocation | Refusal, at: float) -> Response:
        authorised = self._tokens.authorise(headers.get("authorization", ""))
        if refusal := check_headers(headers, authorised=authorised):
            return message(refusal.status, refusal.message)
        if isinstance(found, Refusal):
            return message(found.status, found.message)
        if (objection := self._script.objection(found)) is not None:
            return objection
        self._book.process(found, at)
        return Accepted()

    def _issue(self, headers: Mapping[str, str], body: bytes) -> Response:
        if objection := self._tokens.objection(headers.get("content-type", ""), body):
            status, error = objection
            return json_answer({"error": error}, status)
        self._book.token_issued()
        return json_answer(
            {
                "access_token": self._tokens.issue(),
                "token_type": "bearer",
                "expires_in": self._tokens.seconds,
            }
        )

    def _enter(
        self,
        at: float,
        headers: Mapping[str, str],
        body: bytes,
        found: Invocation | Refusal,
        answer: Response,
    ) -> None:
        status = "cut" if isinstance(answer, Cut) else str(answer.status_code)
        invocation = found if isinstance(found, Invocation) else None
        call = Call(at, status, _shown(headers), Raw(body if invocation else _json(body)))
        self._book.enter(call, len(body), invocation, accepted=isinstance(answer, Accepted))

    async def _throttled(self, answer: Throttled) -> None:
        sent_at = time.time()
        self._book.throttled(sent_at, answer.ends(sent_at))

    async def _be_late(self, headers: Mapping[str, str]) -> None:
        if self._script.fires("revoke", "invoke"):
            self._tokens.revoke(headers.get("authorization", ""))
        if (late := self._script.faults.late) and self._script.fires("late", "invoke"):
            await asyncio.sleep(late.by)

    async def _hold_up(self, door: Door, answer: Response) -> Response:
        faults = self._script.faults
        if faults.delay and self._script.fires("delay", door):
            await asyncio.sleep(faults.delay.by)
        if isinstance(answer, Cut) or not (faults.drip and self._script.fires("drip", door)):
            return answer
        return Dripping(answer, faults.drip.over)


def create_app(simulator: Simulator) -> Starlette:
    """Make the ASGI app; it must run under ``worker.simulator.run``, which can cut a connection."""
    return Starlette(
        routes=[
            Route("/interactions/Invoke", simulator.invoke, methods=["POST"]),
            Route("/Auth/connect/token", simulator.token, methods=["POST"]),
            Route("/_sim/book", simulator.show_book, methods=["GET"]),
            Route("/_sim/book", simulator.new_book, methods=["DELETE"]),
            Route("/_sim/last", simulator.show_last, methods=["GET"]),
            Route("/_sim/calls", simulator.show_calls, methods=["GET"]),
            Route("/_sim/faults", simulator.show_faults, methods=["GET"]),
            Route("/_sim/faults", simulator.script_faults, methods=["POST"]),
            Route("/_sim/faults", simulator.clear_faults, methods=["DELETE"]),
            Route("/healthz", simulator.healthz, methods=["GET"]),
        ]
    )


def _shown(headers: Mapping[str, str]) -> dict[str, str]:
    shown = dict(headers)
    if "authorization" in shown:
        shown["authorization"] = shown["authorization"].partition(" ")[0]
    return shown


def _json(body: bytes) -> bytes:
    # Of a refused body only what fits into our own JSON can be shown.
    try:
        msgspec.json.decode(body)
    except NOT_JSON:
        return b"null"
    return body if len(body) <= MAX_BODY else b"null"
