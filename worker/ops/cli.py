"""The command line: ``vcc``. Exit status 0: done, 1: failed, 2: wrong use, 130: stopped by Ctrl-C."""

import sys
from collections.abc import Sequence
from typing import Any

import typer

from worker.ops import acting, backlog, checking, looking, services, simulating, up

app = typer.Typer(
    name="vcc",
    help="Dispatch and release interactions through the Vonage Contact Center Interactions API.",
    epilog="Settings come from the environment: see the README. `vcc COMMAND --help` has an example.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # help is plain text: examples stay as they are written
    pretty_exceptions_enable=False,
)


def _add(name: str, command: Any, *examples: str) -> None:
    lines = "".join(f"\n  {example}" for example in examples)
    app.command(name, epilog=f"\b\nExample{'s' * (len(examples) > 1)}:{lines}")(command)


_add("up", up.up, "vcc up --simulator")
_add(
    "import",
    backlog.import_,
    'vcc import backlog.mbox --route "Route Interaction NR"',
    "vcc import jobs.jsonl more.csv --route Emails --rejects rejects.jsonl --wait",
)
_add(
    "dispatch",
    acting.dispatch,
    'vcc dispatch sourceObjectName --route "Route Interaction NR"',
    """vcc dispatch 40a4b50f --route Emails --linkeddata '[{"type": "name", "value": "Case"}]'""",
)
_add(
    "release",
    acting.release,
    "vcc release sourceObjectName",
    "vcc release 40a4b50f --force --provider CrmIntegration",
)
_add("show", looking.show, "vcc show sourceObjectName")
_add("list", looking.listing, "vcc list --state failed --limit 20")
_add("rejections", looking.rejections, "vcc rejections --json")
_add("retry", acting.retry, "vcc retry --route Emails --dry-run", "vcc retry --state release_failed 40a4b50f")
_add("pause", acting.pause, 'vcc pause "contact center closed today"')
_add("resume", acting.resume, "vcc resume", "vcc resume --route Emails")
_add("stats", looking.stats, "vcc stats --watch", "vcc stats --json")
_add("check", checking.check, "vcc check")
_add("migrate", services.migrate, "vcc migrate")
_add("prune", services.prune, "vcc prune")
_add("worker", services.worker, "vcc worker --concurrency 8", "vcc worker -- -n mail@%h -Q deliver")
_add("beat", services.beat, "vcc beat")
_add("flower", services.flower, "FLOWER_BASIC_AUTH=user:password vcc flower --port 5555")
_add("simulate", simulating.simulate, "vcc simulate --throttle 2 --retry-after 3")


def run(arguments: Sequence[str]) -> int:
    """Run a command and return the exit status; failures are told in one line."""
    code: object = None
    try:
        app(arguments, prog_name="vcc")
    except SystemExit as ended:
        code = ended.code
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        from worker.ops import failures  # noqa: PLC0415 - only where something failed

        code = failures.report(error)
    return code if isinstance(code, int) else int(code is not None)


def main() -> None:
    """Run the command that the process was started with."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
