"""``vcc simulate``: the API's stand-in, with faults by option."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.ops.failures import CommandError
from worker.ops.options import readable
from worker.ops.printing import say

if TYPE_CHECKING:
    from worker.simulator.faults import Faults


def _count(help: str) -> Any:  # noqa: A002 - as Typer calls it
    return typer.Option(min=1, metavar="N", help=help)


def _names(metavar: str, help: str) -> Any:  # noqa: A002
    return typer.Option(metavar=metavar, help=help, callback=readable)


def _seconds(least: float, help: str) -> Any:  # noqa: A002
    return typer.Option(min=least, metavar="SECONDS", help=help)


def simulate(
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen at.")] = 8900,
    client_id: Annotated[str, typer.Option(help="The one client that gets a token.")] = "simulator",
    client_secret: Annotated[str, typer.Option(help="Its secret.")] = "simulator",  # noqa: S107 - nothing is behind it
    token_seconds: Annotated[float, _seconds(1, "How long a token holds.")] = 7200,
    throttle: Annotated[int | None, _count("Answer N calls with 429.")] = None,
    retry_after: Annotated[float | None, _seconds(0, "With this Retry-After.")] = None,
    errors: Annotated[int | None, _count("Answer N calls with 500.")] = None,
    delay: Annotated[float | None, _seconds(0.001, "Answer every call that late.")] = None,
    rate: Annotated[int | None, _count("Answer 429 past N calls a second.")] = None,
    poison: Annotated[list[str] | None, _names("EXTERNALID", "Refuse it (may be repeated).")] = None,
    refuse_route: Annotated[list[str] | None, _names("NAME", "Refuse it (may be repeated).")] = None,
    faults: Annotated[str | None, _names("JSON", "Any faults, as POST /_sim/faults takes them.")] = None,
) -> None:
    """Run a stand-in of the Interactions API.

    Until Ctrl-C or SIGTERM; nothing leaves this machine. GET /_sim/book tells what it
    saw; POST /_sim/faults lets things go wrong while it runs.
    """
    if retry_after is not None and throttle is None:
        raise typer.BadParameter("goes with --throttle", param_hint="--retry-after")
    wanted = {
        "throttle": throttle and {"calls": throttle, "retry_after": retry_after},
        "status": errors and {"calls": errors, "status": 500},
        "delay": delay and {"by": delay},
        "rate": rate,
        "poison": poison,
        "refuse_routes": refuse_route,
    }
    scripted = _faults({name: fault for name, fault in wanted.items() if fault}, faults)
    from worker.simulator.run import serve  # noqa: PLC0415 - heavy

    say(f"the API's stand-in is http://{host}:{port}: set VCC_API_URL and VCC_AUTH_URL to that")
    try:
        serve(
            host,
            port,
            faults=scripted,
            client_id=client_id,
            client_secret=client_secret,
            token_seconds=token_seconds,
        )
    except OSError as error:
        raise CommandError(f"can't listen there: {error.strerror}; choose another --host or --port") from None


def _faults(given: dict[str, Any], text: str | None) -> "Faults":
    """Put the options and the JSON together; raises typer.BadParameter for a fault that there is not."""
    import msgspec  # noqa: PLC0415 - heavy

    from worker.simulator.faults import Faults  # noqa: PLC0415 - heavy

    try:
        more = msgspec.json.decode(text, type=dict) if text else {}
        return msgspec.convert(given | more, Faults)
    except msgspec.MsgspecError as error:
        raise typer.BadParameter(str(error), param_hint="--faults") from None
