"""The synthetic backlog, read back by the reader it is made for."""

from pathlib import Path

import pytest

from worker.intake.sources import Entry, Options, Rejected, open_source
from worker.intake.sources.generate import write_backlog


def test_counts_are_what_the_reader_finds(tmp_path: Path) -> None:
    """Of 200 messages as many are distinct, duplicate and broken as was said."""
    path = tmp_path / "backlog"
    counts = write_backlog(path, 200, duplicates=20, broken=3, seed=7)
    assert counts == {"read": 200, "distinct": 177, "duplicates": 20, "broken": 3}
    entries = list(open_source(path, "auto", Options(route="Email")))
    ids = [entry.job["externalid"] for entry in entries if isinstance(entry, Entry)]
    good = [found for found in ids if len(found.encode()) <= 1_024]
    assert (len(entries), len(good), len(set(good))) == (200, 197, 177)
    assert sum(isinstance(entry, Rejected) for entry in entries) == 1
    assert len(set(ids)) == 177 + 2


def test_duplicates_repeat_whole_messages(tmp_path: Path) -> None:
    """A duplicate is the earlier message once more, and no message comes with a note."""
    path = tmp_path / "backlog"
    write_backlog(path, 50, duplicates=20)
    entries = [
        entry for entry in open_source(path, "auto", Options(route="Email")) if isinstance(entry, Entry)
    ]
    assert b"\n>From my side" in path.read_bytes()
    assert len({str(entry.job) for entry in entries}) == 30
    assert not any(entry.notes for entry in entries)


def test_seed_decides(tmp_path: Path) -> None:
    """The same seed makes the same file, another one other ids."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_backlog(tmp_path / name, 20, duplicates=2, broken=2, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("numbers", [(2, 2, 0), (2, 1, 2), (2, -1, 0), (-1, 0, 0)])
def test_impossible_counts(tmp_path: Path, numbers: tuple[int, int, int]) -> None:
    """Counts that don't go together are refused before anything is written."""
    count, duplicates, broken = numbers
    with pytest.raises(ValueError, match="messages can't have"):
        write_backlog(tmp_path / "a", count, duplicates=duplicates, broken=broken)
    assert not (tmp_path / "a").exists()
