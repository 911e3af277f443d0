"""The control block of an area as readers see it: the generation word, *oldest*, and what the writer says of itself.

Only the generation, *oldest* and the current segment are needed to read correctly; the rest is information. The
writer's side is `shmroute.shm.writing.control`.
"""

from __future__ import annotations

from zlib import crc32

from shmroute.errors import AreaUnreadable
from shmroute.shm import posix
from shmroute.shm.layout import (
    AREA_ID_AT,
    AWAITED_AT,
    CONFIRMED_AT,
    CONTACT_AT,
    CONTROL_BYTES,
    FIRST_SEGMENT_AT,
    GENERATION_AT,
    HEARTBEAT_AT,
    MAX_GENERATION,
    OLDEST_AT,
    RETIRED,
    SECOND_SEGMENT_AT,
    SEGMENT_AT,
    STATUS_AT,
    STATUS_BYTES,
    STATUS_HEADER,
    SYNCED_AT,
    WORD_BYTES,
    WRITER_PID_AT,
    WRITER_STARTED_AT,
    check_control_header,
)

__all__ = ["ControlReader"]


class ControlReader:
    """A read-only view of an area's control block.

    Raises:
        FileNotFoundError: the area has never been written.
        AreaUnreadable: it is damaged, foreign or of another format version.
        NoAccess: this process may not open it, or does not trust its owner.
    """

    def __init__(self, area: str) -> None:
        self.name = posix.control_name(area)
        self._map = posix.attach(self.name)
        check_control_header(self.name, self._map[:CONTROL_BYTES])
        self.buffer = memoryview(self._map)[:CONTROL_BYTES]
        """The whole block, read-only, for the native look-up."""
        self._words = self.buffer.cast("Q")
        self._signed = self.buffer.cast("q")
        self._oldest: memoryview[int] = self.buffer[OLDEST_AT : OLDEST_AT + WORD_BYTES].cast("Q", shape=())
        self.head: memoryview[float] = self.buffer[GENERATION_AT : GENERATION_AT + WORD_BYTES].cast("d", shape=())
        """The generation as `head[()]`, a float: a memoryview without dimensions is the quickest to read."""

    def _word(self, offset: int) -> int:
        return int(self._words[offset // WORD_BYTES])

    @property
    def generation(self) -> int:
        """The newest published generation, 0 before the first and in a removed area.

        Raises:
            AreaUnreadable: the word is not a generation.
        """
        word = self.head[()]
        if word == RETIRED:
            return 0
        if not 0 <= word < MAX_GENERATION or word % 1:
            raise AreaUnreadable(self.name, f"its generation is damaged ({word})")
        return int(word)

    @property
    def retired(self) -> bool:
        """Whether the area has been removed, so that another of its name may exist."""
        return bool(self.head[()] == RETIRED)

    @property
    def oldest(self) -> int:
        """Segments whose base began before this generation are void: their bytes may change at any time."""
        return self._oldest[()]

    @property
    def segment(self) -> int:
        """Identity of the current segment, 0 before the first."""
        return self._word(SEGMENT_AT)

    @property
    def segments(self) -> tuple[int, int]:
        """Identities of the area's two segments, 0 for one that has not been made."""
        return self._word(FIRST_SEGMENT_AT), self._word(SECOND_SEGMENT_AT)

    @property
    def area_id(self) -> int:
        """A random number that names this area."""
        return self._word(AREA_ID_AT)

    @property
    def writer_pid(self) -> int:
        """The writer's process id, in its own pid namespace."""
        return self._word(WRITER_PID_AT)

    @property
    def writer_started_ns(self) -> int:
        """When the writer took the area, on the monotonic clock."""
        return self._word(WRITER_STARTED_AT)

    @property
    def heartbeat_ns(self) -> int:
        """When the writer's loop last turned, on the monotonic clock."""
        return self._word(HEARTBEAT_AT)

    @property
    def contact_ns(self) -> int:
        """When every source last answered, by its watch or the server's cache, on the monotonic clock.

        0 if never; negative where that was before the clock began, as with a checkpoint from before a restart.
        """
        return self._signed[CONTACT_AT // WORD_BYTES]

    @property
    def confirmed_ns(self) -> int:
        """When the storage behind every source last confirmed that the rows are up to date; as `contact_ns`."""
        return self._signed[CONFIRMED_AT // WORD_BYTES]

    @property
    def synced(self) -> bool:
        """Whether the present writer has published a complete list of its own."""
        return self._word(SYNCED_AT) != 0

    @property
    def awaited_ns(self) -> int:
        """When a standby watcher last tried to take the area, on the monotonic clock; 0 if none has."""
        return self._word(AWAITED_AT)

    def status(self) -> bytes | None:
        """The newest status page that is complete, or None."""
        pages = []
        for start in STATUS_AT:
            sequence, length, checksum = STATUS_HEADER.unpack_from(self._map, start)
            begin = start + STATUS_HEADER.size
            payload = self._map[begin : begin + min(length, STATUS_BYTES)]
            if sequence and crc32(payload) == checksum:
                pages.append((sequence, payload))
        return max(pages)[1] if pages else None
