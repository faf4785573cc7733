"""The list of commands, which imports none of them."""

import pytest

from worker.ops import cli


@pytest.mark.parametrize("name", [command.name for command in cli.app.registered_commands])
def test_summary_is_the_command_s_own(name: str) -> None:
    """What the list says of a command is the first sentence of what the command says of itself."""
    (command,) = [one for one in cli.app.registered_commands if one.name == name]
    cli.load(name)
    assert command.callback is not None
    own = (command.callback.__doc__ or "").strip().partition("\n\n")[0]
    assert command.short_help == own


def test_command_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    """A command is found wherever options stand, and one that does not exist is told."""
    assert cli.run(["--", "pause", "--help"]) == 0
    assert "Stop all calls" in capsys.readouterr().out
    assert cli.run(["nothing"]) == 2
