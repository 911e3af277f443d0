"""Carries rows `(kind, key) -> bytes` from one writing process to many readers, without locks between them.

Knows generations, segments and their bytes; never knows what a model is. Can be used on its own, see docs/low-level.md:
`Publisher` (one per area) and `RowReader` (any number, in any process). Both are loaded at their first use, so that a
worker never loads the publisher. docs/format.md gives the position of each byte.

    reader     `RowReader`: rows of one generation, and the moves to the next one
    segment    one segment, as readers see it; `hashing` finds its slots, `fences` orders loads and stores
    control    the control block, as readers see it
    layout     the position of each byte
    names      the names of an area's files; `posix` opens and maps them, `trust` checks their owner and mode
    register   the workers' register; `events` is the event log
    writing    all that writes

The generation protocol
=======================

An *area* is a control block, which exists as long as the area, and at most two *segments*: the current one, and the
*retired* one that was current before.

**Content of a segment.** A table of 64-bit slots (open addressing by a hash with a secret key) followed by records,
each written once. The first records are the *base*: all rows at the time when the segment was built. After the base
comes the *log*: each generation appends one *batch* with the changed rows, deletions included. A record carries the
offset of the record it supersedes, so a slot leads to every version of its row in the segment, the newest first.

**Publishing** a generation costs what changed. The writer, in this order,

1. appends the batch, its generation last, behind the end of every reader's log;
2. points the changed rows' slots at the new records (each an aligned 64-bit store);
3. stores the offset of the batch as the *hint* for processes that attach later;
4. stores the new generation into **the one word** that readers watch: an aligned 64-bit float in the control block (a
   float, since CPython reads and compares one faster than an integer of that size; exact to 2**53).

A memory fence between two steps keeps processors from showing them to a reader in another order.

**Reading.** A reader has a generation, and the offset at which the log ends for that generation. If a slot leads beyond
that end, the reader follows the chain back to the newest record before it. So each reader sees exactly its own
generation, whatever state the slots are in: in the middle of a publish, or after the writer was killed there. When the
word has changed, the reader walks the batches up to the new generation. It verifies the checksum of each batch before
it uses any of its content. A batch names the rows that changed, which are all that a cache must drop.

**A new base.** When the log has outgrown a fraction of the base, the writer copies the rows, a slice at a time
between publishes, into the retired segment, replays the batches published meanwhile, and then *seals* the current
segment: the last batch of its log names the segment that continues. Readers move there and keep their caches. Once the
generation is stored, the control block names the new current segment, and the old one is retired. A sealed segment
marked *reset* continues in one whose rows may differ in any way: readers drop their whole cache.

**Recycling.** Reusing the retired segment bounds the memory independently of the readers: a worker that never looks
again pins one of the same two files forever. The content of the retired segment becomes void when the writer stores
*oldest*, a word of the control block: every segment whose base began before that generation may be overwritten. The
writer stores it, then executes a full fence, then overwrites the first byte. A reader copies what it needs, checking
bounds, executes an acquire fence, and loads *oldest*: if the segment is void by then, the reader discards the copy,
whatever its content, and goes to the newest generation. Look-ups, listings, following the log and attaching all do so.
A file never shrinks (access to a truncated mapping is a SIGBUS). It grows in powers of two, which takes address space
only. The retired segment rests for a second if the log has room, so that readers that are one base behind can follow
the log; at full rate it does not rest.

**Attaching** takes constant time: the control block names the segment, the segment's hint the end of the log. If the
segment has just been retired and is void, the reader reads the control block again; after a bounded number of attempts
it raises an error.

**A crash** of the writer at any instant leaves either an invalid batch, which readers ignore and the next writer
overwrites, or a valid one: then its slots may or may not have been set, and the next writer sets them again and stores
the word. An unfinished base has no header, so nobody can attach to it; the next writer starts it again in the same
file. The control block names both files, so none is lost. The lock is `flock` on a file that only its owner can open:
the kernel releases it when its process ends, and children do not inherit it. After an exception in the middle of a
publish, the writer recovers in the same way. The writer also takes the lock of older watchers, which is on the control
block, so that a watcher of format version 2 and one of this version never write at the same time.

**Removing an area** begins with the word, which becomes infinite: a process that maps the block then looks for a new
block of the same name. A writer that finds such a block finishes the removal and makes a new one. If somebody else
removes files of a running writer, it notices at its next heartbeat and makes the area anew in the same way.

**Trust.** Names of segments are random; the owner and mode of every file are checked on the open descriptor
(`shmroute.shm.trust`).

**Damage** (writes of another program, a truncated file, another format version) is detected before the data is used:
headers, batches and records carry checksums, a slot is compared with its record, and if a row is not found, everything
on the search path is checked. Two kinds of damage stay undetected: a slot overwritten as a whole with another valid
slot of the same row (an older value), or with zeros (the row is missing).

Memory is reserved (`posix_fallocate`) before it is written, and before it is read: behind the last batch lies an
empty header, which a sealing batch can always replace. So a full /dev/shm causes an error in the writer, and never a
SIGBUS in any process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmroute.shm.reader import RowChange, RowReader
    from shmroute.shm.writing.publisher import Publisher

__all__ = ["Publisher", "RowChange", "RowReader"]


def __getattr__(name: str) -> Any:
    if name == "Publisher":
        from shmroute.shm.writing.publisher import Publisher

        return Publisher
    if name in ("RowChange", "RowReader"):
        from shmroute.shm import reader

        return getattr(reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
