"""What every source speaks: entries that became jobs, entries that could not, and the source itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

RAW_LIMIT = 100_000
"""So many bytes of a rejected entry are kept."""


class SourceError(Exception):
    """A source as a whole is unreadable; the message says where, why and the remedy."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One readable entry.

    Attributes:
        place: where it stands, such as ``backlog.mbox: message 17 (byte 123456)``.
        job: the job by its wire names, not yet validated.
        notes: what had to be repaired to read it; never holds a customer's words.
    """

    place: str
    job: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """One entry that can't be a job.

    Attributes:
        place: where it stands.
        reason: why, without a customer's words.
        raw: the entry as it was (of an email: its header block), cut at RAW_LIMIT bytes.
    """

    place: str
    reason: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator decides for a whole source.

    Attributes:
        route: the named route of every dispatch that names none itself.
        provider: the provider, likewise; empty for none.
        lane: the lane, likewise.
        prefix: put before every ``externalid``.
        externalid_from: the header (emails) or column (CSV) that holds the ``externalid``;
            None for the ``Message-ID``, or the column ``externalid``.
        url_template: the link that an agent gets to an email; ``{externalid}`` stands for the job's
            ``externalid``, ``{id}`` for the same without the prefix, both percent-encoded.
        interactiontype: ``routingdata.interactiontype`` of every dispatch that names none itself.
    """

    route: str | None = None
    provider: str = ""
    lane: str = "backlog"
    prefix: str = ""
    externalid_from: str | None = None
    url_template: str | None = None
    interactiontype: str = "nonlive"

    def completed(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return a job with what it leaves open filled in; a release needs nothing but the prefix."""
        if isinstance(job.get("externalid"), str):
            job = {**job, "externalid": self.prefix + job["externalid"]}
        return job if job.get("action") == "release" else self._dispatch(job)

    def _dispatch(self, job: dict[str, Any]) -> dict[str, Any]:
        job = {**job}
        for name, value in (("route", self.route), ("provider", self.provider), ("lane", self.lane)):
            if value and job.get(name) is None:
                job[name] = value
        routing = job.get("routingdata")
        if routing is None or isinstance(routing, dict):
            job["routingdata"] = {"interactiontype": self.interactiontype} | (routing or {})
        return job


class Source(Protocol):
    """Something to import from: iterate over it once per import.

    Attributes:
        name: the path as it was given.
        total: its size in bytes.
        position: how many of them have been read so far; for a progress bar.
        remarks: what the operator should know about the source as a whole.
    """

    name: str
    total: int
    position: int
    remarks: list[str]

    def __iter__(self) -> Iterator[Entry | Rejected]:
        """Read entry by entry; raises SourceError where the medium fails on the way."""
        ...  # pragma: no cover
