"""The readers' view of an area's control block: the generation word, *oldest*, and the writer's state.

Reading rows needs only the generation, *oldest* and the current segment; the rest is information. The writer uses
`shmroute.shm.writing.control`.
"""

from __future__ import annotations

from zlib import crc32

from shmroute.errors import AreaUnreadable, ShmrouteError
from shmroute.shm import posix
from shmroute.shm.layout import (
    AREA_ID_AT,
    AWAITED_AT,
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
from shmroute.shm.names import control_name


class ControlReader:
    """A read-only view of an area's control block.

    Raises:
        FileNotFoundError: there is no such area.
        AreaUnreadable: the block is damaged, foreign or of another format version.
        NoAccess: this process may not open it, or does not trust its owner.
    """

    def __init__(self, area: str) -> None:
        self.name = control_name(area)
        self._map = posix.attach(self.name)
        check_control_header(self.name, self._map[:CONTROL_BYTES])
        self.buffer = memoryview(self._map)[:CONTROL_BYTES]
        """The whole block, read-only, for the native look-up."""
        self._words = self.buffer.cast("Q")
        self._signed = self.buffer.cast("q")
        self.oldest_word: memoryview[int] = self.buffer[OLDEST_AT : OLDEST_AT + WORD_BYTES].cast("Q", shape=())
        self.head: memoryview[float] = self.buffer[GENERATION_AT : GENERATION_AT + WORD_BYTES].cast("d", shape=())
        """`head[()]` is the generation as a float. A memoryview without dimensions is the fastest to read."""

    def _word(self, offset: int) -> int:
        return int(self._words[offset // WORD_BYTES])

    @property
    def generation(self) -> int:
        """The newest published generation; 0 before the first one and in a removed area.

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
        """Whether the area has been removed, so that a new area of the same name may exist."""
        return bool(self.head[()] == RETIRED)

    @property
    def oldest(self) -> int:
        """Generation limit of void segments: if a segment's base began before it, its bytes may change at any time."""
        return self.oldest_word[()]

    @property
    def segment(self) -> int:
        """Identity of the current segment; 0 before the first one."""
        return self._word(SEGMENT_AT)

    @property
    def segments(self) -> tuple[int, int]:
        """Identities of the area's two segments; 0 for one that does not exist yet."""
        return self._word(FIRST_SEGMENT_AT), self._word(SECOND_SEGMENT_AT)

    @property
    def area_id(self) -> int:
        """Random number that identifies this area."""
        return self._word(AREA_ID_AT)

    @property
    def writer_pid(self) -> int:
        """Process id of the writer, in its own pid namespace."""
        return self._word(WRITER_PID_AT)

    @property
    def writer_started_ns(self) -> int:
        """Monotonic time at which the writer took the area, in nanoseconds."""
        return self._word(WRITER_STARTED_AT)

    @property
    def heartbeat_ns(self) -> int:
        """Monotonic time of the writer's newest heartbeat, in nanoseconds."""
        return self._word(HEARTBEAT_AT)

    @property
    def contact_ns(self) -> int:
        """Monotonic time of the oldest among the sources' last answers, by watch or the server's cache, in nanoseconds.

        0 if never; negative if it lies before the clock's start, as with a checkpoint from before a reboot.
        """
        return self._signed[CONTACT_AT // WORD_BYTES]

    @property
    def synced(self) -> bool:
        """Whether the current writer has published a complete list of its own."""
        return self._word(SYNCED_AT) != 0

    @property
    def awaited_ns(self) -> int:
        """Monotonic time at which a standby watcher last tried to take the area, in nanoseconds; 0 if none has."""
        return self._word(AWAITED_AT)

    def status(self) -> bytes | None:
        """Return the newest complete status page, or None."""
        pages = []
        for start in STATUS_AT:
            sequence, length, checksum = STATUS_HEADER.unpack_from(self._map, start)
            begin = start + STATUS_HEADER.size
            payload = self._map[begin : begin + min(length, STATUS_BYTES)]
            if sequence and crc32(payload) == checksum:
                pages.append((sequence, payload))
        return max(pages)[1] if pages else None


def find_control(area: str) -> ControlReader | None:
    """Return the area's control block; None if there is none, or if this process cannot use it."""
    try:
        return ControlReader(area)
    except (FileNotFoundError, ShmrouteError):
        return None
