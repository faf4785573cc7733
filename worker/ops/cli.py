"""The command line: ``vcc``. Exit status 0: done, 1: failed, 2: wrong use, 130: stopped by Ctrl-C."""

import sys
from collections.abc import Sequence
from importlib import import_module

import typer
from typer.models import CommandInfo

app = typer.Typer(
    name="vcc",
    help="Dispatch and release interactions through the Vonage Contact Center Interactions API.",
    epilog="Settings come from the environment: see the README. `vcc COMMAND --help` has an example.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # help is plain text: examples stay as they are written
    pretty_exceptions_enable=False,
)


_COMMANDS: dict[str, tuple[CommandInfo, str]] = {}


def _add(name: str, function: str, summary: str, *examples: str) -> None:
    """Add a command by its function's name; it is imported by who asks for it, so that the list is there at once."""
    lines = "".join(f"\n  {example}" for example in examples)
    epilog = f"\b\nExample{'s' * (len(examples) > 1)}:{lines}"
    app.command(name, short_help=summary, epilog=epilog)(lambda: None)
    _COMMANDS[name] = app.registered_commands[-1], function


def load(name: str) -> None:
    """Put a command's function in its place, with all that it says of itself; nothing where there is none."""
    if name in _COMMANDS:
        command, function = _COMMANDS[name]
        module, _, attribute = function.rpartition(".")
        command.callback = getattr(import_module(f"worker.ops.{module}"), attribute)


_add("up", "up.up", "Run everything on this machine, until Ctrl-C.", "vcc up --simulator")
_add(
    "import",
    "backlog.import_",
    "Import a backlog of emails or jobs.",
    'vcc import backlog.mbox --route "Route Interaction NR"',
    "vcc import jobs.jsonl more.csv --route Emails --rejects rejects.jsonl --wait",
)
_add(
    "dispatch",
    "acting.dispatch",
    "Record a dispatch; the workers send it.",
    'vcc dispatch sourceObjectName --route "Route Interaction NR"',
    """vcc dispatch 40a4b50f --route Emails --linkeddata '[{"type": "name", "value": "Case"}]'""",
)
_add(
    "release",
    "acting.release",
    "Record releases.",
    "vcc release sourceObjectName",
    "vcc release 40a4b50f --force --provider CrmIntegration",
)
_add("show", "looking.show", "Show what happened to one externalid.", "vcc show sourceObjectName")
_add("list", "looking.listing", "List interactions, the newest first.", "vcc list --state failed --limit 20")
_add("rejections", "looking.rejections", "List jobs that could not be recorded.", "vcc rejections --json")
_add(
    "retry",
    "acting.retry",
    "Try given-up interactions again.",
    "vcc retry --route Emails --dry-run",
    "vcc retry --state release_failed 40a4b50f",
)
_add(
    "pause", "acting.pause", "Stop all calls, until `vcc resume`.", 'vcc pause "contact center closed today"'
)
_add(
    "resume",
    "acting.resume",
    "Take a pause back, or let a held route go.",
    "vcc resume",
    "vcc resume --route Emails",
)
_add(
    "forget",
    "forgetting.forget",
    "Erase a customer's words.",
    "vcc forget 40a4b50f --dry-run",
)
_add("stats", "looking.stats", "Show the whole at a glance.", "vcc stats --watch", "vcc stats --json")
_add("check", "checking.check", "Check that all is there, and name the remedies.", "vcc check")
_add("user", "user.user", "Make an entry for VCC_WEB_USERS.", "vcc user vera --role viewer")
_add("migrate", "services.migrate", "Bring the database to what this version needs.", "vcc migrate")
_add("prune", "services.prune", "Delete what is older than VCC_KEEP_FOR.", "vcc prune")
_add(
    "worker",
    "services.worker",
    "Run a worker.",
    "vcc worker --concurrency 8",
    "vcc worker -- -n mail@%h -Q deliver",
)
_add("beat", "services.beat", "Run the clock that wakes the workers.", "vcc beat")
_add(
    "flower",
    "services.flower",
    "Run Flower, Celery's own page.",
    "FLOWER_BASIC_AUTH=user:password vcc flower --port 5555",
)
_add(
    "web",
    "web.serving.web",
    "Run the operators' page.",
    "vcc web",
    "VCC_WEB_USERS=… vcc web --host 0.0.0.0 --port 8899",
)
_add(
    "simulate",
    "simulating.simulate",
    "Run a stand-in of the Interactions API.",
    "vcc simulate --throttle 2 --retry-after 3",
)


def run(arguments: Sequence[str]) -> int:
    """Run a command and return the exit status; failures are told in one line."""
    code: object = None
    try:
        load(next((word for word in arguments if not word.startswith("-")), ""))
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
