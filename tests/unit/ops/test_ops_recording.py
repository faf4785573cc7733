"""An operator's words on their way to a job."""

import pytest
import typer

from worker.domain.meeting import Verdict
from worker.ops.options import Kind, readable
from worker.ops.recording import WORDS, decoded, with_kind

HAVE_A_SENTENCE = {Verdict.DUPLICATE, Verdict.NOTHING, Verdict.REJECTED}


def test_every_verdict_has_words() -> None:
    """What has no sentence of its own is in the table."""
    assert set(WORDS) == set(Verdict) - HAVE_A_SENTENCE


def test_an_options_json_is_read() -> None:
    """Nothing stays nothing."""
    assert decoded("--extra", '{"a": [1]}') == {"a": [1]}
    assert decoded("--extra", None) is None


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000])
def test_an_option_that_is_no_json_is_wrong_use(text: str) -> None:
    """The option is named."""
    with pytest.raises(typer.BadParameter, match="is no JSON") as caught:
        decoded("--extra", text)
    assert caught.value.param_hint == "--extra"


@pytest.mark.parametrize(
    ("routingdata", "kind", "whole"),
    [
        (None, None, None),
        (None, Kind.CHAT, {"interactiontype": "chat"}),
        ({"skills": []}, Kind.LIVE, {"skills": [], "interactiontype": "live"}),
        ({"interactiontype": "live"}, Kind.CHAT, {"interactiontype": "chat"}),
        ([], Kind.CHAT, []),
    ],
)
def test_the_interactiontype_joins_the_routing_data(
    routingdata: object, kind: Kind | None, whole: object
) -> None:
    """What is no object is left as it is, to be refused by name."""
    assert with_kind(routingdata, kind) == whole


@pytest.mark.parametrize("value", [None, "ä", [], ["a", "b"]])
def test_text_is_readable(value: str | list[str] | None) -> None:
    """It passes unchanged."""
    assert readable(value) == value


@pytest.mark.parametrize("value", ["\udcff", ["a", "\udcff"]])
def test_bytes_that_are_no_text_are_wrong_use(value: str | list[str]) -> None:
    """They could be neither stored nor sent."""
    with pytest.raises(typer.BadParameter, match="UTF-8"):
        readable(value)
