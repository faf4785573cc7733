"""What the README says is what the code does."""

import re
from pathlib import Path

from worker.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text()


def test_every_setting_is_listed() -> None:
    """The settings' table has every setting, and none that is not read."""
    table = README.split("## Settings")[1].split("## Licence")[0]
    listed = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", table))
    read = {
        str(field.validation_alias or f"VCC_{name.upper()}") for name, field in Settings.model_fields.items()
    }
    assert listed == read | {"VCC_HOME", "FLOWER_BASIC_AUTH"}


def test_every_room_is_on_the_map() -> None:
    """Each module and package directly in worker/ is on the map of the rooms."""
    rooms = README.split("## The rooms")[1].split("A job's way")[0]
    for path in (ROOT / "worker").iterdir():
        if not path.name.startswith("__"):
            assert path.stem in rooms, path.name


def test_links_lead_somewhere() -> None:
    """Every relative link leads to a file."""
    for name in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / name).exists(), name
