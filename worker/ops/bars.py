"""Bars on stderr that tell how far something is; nothing where that is no terminal."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from worker.intake.importer import Tally
from worker.intake.sources import Source
from worker.ops.printing import screen


class Reading:
    """How far sources have been read: in bytes, with entries per second and the time that remains."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._bar = _Bar(sources)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, tally: Tally) -> None:
        """Show the rate that has been reached."""
        self._bar.rate = tally.read / tally.seconds if tally.seconds else 0.0


class _Bar(Progress):
    """A bar that looks for itself how far the sources are, each time that it is drawn."""

    def __init__(self, sources: Sequence[Source]) -> None:
        # Progress draws itself once while it is made
        self.rate = 0.0
        self._sources = sources
        console = screen(stderr=True)
        super().__init__(
            TextColumn("importing"),
            BarColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[rate]:,.0f} entries/s"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.add_task("", total=sum(source.total for source in sources), rate=0.0)

    def get_renderable(self) -> RenderableType:
        """Draw it; an entry of many megabytes moves it as well, not only a chunk of entries."""
        read = sum(source.position for source in self._sources)
        for task in self.task_ids:
            self.update(task, completed=read, rate=self.rate)
        return super().get_renderable()
