"""Code blocks out of a markdown file, so that what is documented is what the tests run."""

import re
from pathlib import Path
from typing import NamedTuple

_BLOCK = re.compile(r"^#+ (?P<heading>.+)$|^```(?P<language>\S*).*\n(?P<text>(?s:.*?))^```$", re.MULTILINE)


class Snippet(NamedTuple):
    """A fenced block, and the heading that it stands under."""

    heading: str
    language: str
    text: str


class Snippets:
    """The blocks of a file; each is to be taken by a test, and ``left`` tells which were not.

    Attributes:
        all: the blocks in their order.
        left: those that nobody has taken yet.
    """

    def __init__(self, path: Path) -> None:
        self.all: list[Snippet] = []
        heading = ""
        for found in _BLOCK.finditer(path.read_text()):
            if found["heading"]:
                heading = found["heading"]
            else:
                self.all.append(Snippet(heading, found["language"], found["text"]))
        self.left = list(self.all)

    def take(self, heading: str, language: str) -> list[str]:
        """The texts of the blocks of a language under a heading."""
        taken = [one for one in self.left if (one.heading, one.language) == (heading, language)]
        self.left = [one for one in self.left if one not in taken]
        return [one.text for one in taken]
