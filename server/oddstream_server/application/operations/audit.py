"""The audit log's readers: listing, and the proof that nothing in it was changed, taken out or put in."""

from collections.abc import Sequence
from dataclasses import dataclass

from oddstream_server.application.calls.paging import PageRequest
from oddstream_server.application.ports import Anchor, AnchorFile, AuditFilter, AuditHead, AuditLog, Clock, Page
from oddstream_server.domain.audit import AuditEntry
from oddstream_server.domain.errors import FieldViolation, InvalidArgument

_ROWS_AT_A_TIME = 1000


@dataclass(frozen=True, slots=True)
class Verification:
    """What a verification found."""

    verified: int
    """Rows that fit, up to the first that doesn't."""
    head_hash: str
    """Of the last row that was verified."""
    broken_sequence: int | None = None
    detail: str = ""
    """How the row at ``broken_sequence`` doesn't fit."""

    @property
    def intact(self) -> bool:
        return self.broken_sequence is None


class Audit:
    """:param anchors: None where no file is kept."""

    def __init__(self, log: AuditLog, anchors: AnchorFile | None, now: Clock) -> None:
        self._log = log
        self._anchors = anchors
        self._now = now

    async def list_entries(self, where: AuditFilter, page: PageRequest) -> Page[AuditEntry]:
        return await self._log.list_entries(where, page.after, page.size)

    async def verify(self, start_sequence: int = 0, end_sequence: int = 0) -> Verification:
        """Compute the hashes of a stretch again; 0 stands for the log's own beginning and end.

        Rows are held against their own hash, the row before, the head and the anchors in the stretch. The row before
        the first one is held against the beginning of the log, or taken as it is.
        """
        if end_sequence and start_sequence > end_sequence:
            raise InvalidArgument([FieldViolation("start_sequence", "must not be above end_sequence")])
        head = await self._log.head()
        first = max(start_sequence or head.oldest_sequence, head.oldest_sequence)
        last = min(end_sequence or head.sequence, head.sequence)
        previous = await self._hash_before(first, head)
        anchors = {anchor.sequence: anchor for anchor in (self._anchors.read() if self._anchors else ())}
        verified = 0
        expected = first
        while expected <= last:
            rows = await self._log.read(expected, min(_ROWS_AT_A_TIME, last - expected + 1))
            for row in rows:
                wrong = _misfit(row, expected, previous, head, anchors.get(row.sequence))
                if wrong:
                    return Verification(verified, previous, expected, wrong)
                previous = row.hash
                verified += 1
                expected += 1
            if not rows:
                return Verification(verified, previous, expected, "the row is missing")
        beyond = [sequence for sequence in anchors if sequence > head.sequence]
        if beyond and not end_sequence:
            return Verification(verified, previous, head.sequence + 1, "an anchor names rows that are gone")
        return Verification(verified, previous)

    async def anchor(self) -> Anchor | None:
        """Write the chain's head to the file where it has moved since the last time."""
        if self._anchors is None:
            return None
        head = await self._log.head()
        known: Sequence[Anchor] = self._anchors.read()
        if head.sequence == 0 or (known and known[-1].sequence >= head.sequence):
            return None
        anchor = Anchor(head.sequence, head.hash, self._now())
        self._anchors.append(anchor)
        return anchor

    async def _hash_before(self, first: int, head: AuditHead) -> str:
        if first <= head.oldest_sequence:
            return head.oldest_previous_hash
        before = await self._log.read(first - 1, 1)
        return before[0].hash if before and before[0].sequence == first - 1 else ""


def _misfit(row: AuditEntry, expected: int, previous: str, head: AuditHead, anchor: Anchor | None) -> str:
    """How a row doesn't fit; empty where it does."""
    if row.sequence != expected:
        return "the row is missing"
    if not row.fits:
        return "the row was changed: its content doesn't have its hash"
    if row.previous_hash != previous:
        return "the row doesn't follow the one before: that one was replaced, or rows between them were taken out"
    if row.sequence == head.sequence and row.hash != head.hash:
        return "the last row is not the one that the log's head names"
    if anchor is not None and anchor.hash != row.hash:
        return "the row is not the one that an anchor names: the chain was written anew"
    return ""
