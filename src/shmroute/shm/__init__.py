"""Rows `(kind, key) -> bytes` from one writing process to many reading ones, lock-free.

Knows generations, segments and their bytes; never knows what a model is. Of use on its own, see docs/low-level.md:
`Publisher` (one per area) and `RowReader` (any number, in any process). Both names are loaded when they are asked for,
so that a worker never loads the publisher.

The generation protocol
=======================

An *area* is a control block, which lives as long as the area, and one *segment* at a time, a POSIX shared
memory object named by the area and the generation it starts at.

**What a segment holds.** A table of 64-bit slots (open addressing over a CRC-32 of the key) followed by
records, each written once. The first records are the *base*: the whole table as it was when the segment was
built. Those of the kind that is looked up most lie in *cells*, where their hash says: who looks there need not look at
a slot first. After the base comes the *log*: each generation appends one *batch*, the records that changed, deletions
included. A record carries the offset of the record it supersedes, so a slot leads to every version of its row
that the segment holds, the newest first.

**Publishing** a generation costs what changed. The writer, in this order,

1. appends the batch, header with checksum last, beyond what any reader looks at;
2. takes the quick sum from the records of the base that these supersede (an aligned 32-bit store), so that nobody finds
   an old row in a cell, and points the changed rows' slots at the new records (each an aligned 64-bit store);
3. stores the offset of the batch as the *hint* for those who attach later;
4. stores the new generation into **the one word** a reader watches: an aligned 64-bit float in the control
   block (a float, since CPython reads and compares one faster than an integer of that size; exact to 2**53).

Between the steps stands a memory fence (releasing and taking a lock), for processors that would let a reader
see them in another order.

**Reading.** A reader owns a generation and the offset where its log ends for it. Where a slot leads beyond that
end, the reader follows the chain back to the newest record before it: any state of the slots, in the
middle of a publish or after the writer was killed there, gives each reader exactly its own generation. When the
word has changed, the reader walks the batches up to it; each is checked against its checksum before anything of
it is believed, and names the rows that changed, which is all a memo has to drop.

**A new base.** When the log has outgrown a fraction of the base the writer copies the live rows, a slice at
a time between publishes, into a segment named by the generation at which it began, replays the batches published
meanwhile, and then *seals* the old segment: the last batch of its log says which segment goes on. Readers hop over
with warm memos. Once the generation is stored the control block names the new segment, and the old name is unlinked;
whoever still maps it keeps the memory until it lets go. A sealed segment marked *reset* goes on in one whose rows may
differ in any way: memos are dropped whole.

**Attaching** takes constant time: the control block names the segment, the segment's hint the end of the log. If the
name has just been unlinked, the reader looks at the control block again; after a bounded number of times it
gives up with an error.

**A crash** of the writer at any instant leaves either a batch that is not valid, which nobody looks at and
the next writer overwrites, or one that is: then its slots may or may not have been set, and the next
writer sets them again and stores the word. A segment under construction is not named by anything; whoever takes the
lock next removes it. The lock is `flock` on the control block: it dies with its process, and is not left to children.
The same is done after an exception in the middle of a publish.

**Removing an area** begins with the word, which becomes infinite: whoever maps the block then looks for another of its
name. A writer that finds such a block finishes the removal and makes a new one.

**Damage** (somebody else's writes, a file cut short, another format version) is found before it is believed: headers,
batches and records carry checksums, a slot is compared with the record it leads to, a row that is not found is looked
for again with a check of all that lies on the way. What these cannot see: a slot that was overwritten as a whole, with
another valid one of the same row (an older value) or with zeros (the row is missing).

Memory is reserved (`posix_fallocate`) before it is written, and before it is read: behind the last batch lies an
empty header, whose place a sealing one can always take. So a full /dev/shm is an error of the writer, never a SIGBUS
in anyone. Nothing is ever registered with multiprocessing's resource tracker, which would unlink what others
use (https://github.com/python/cpython/issues/82300).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmroute.shm.publisher import Publisher
    from shmroute.shm.reader import RowChange, RowReader

__all__ = ["Publisher", "RowChange", "RowReader"]


def __getattr__(name: str) -> Any:
    if name == "Publisher":
        from shmroute.shm.publisher import Publisher

        return Publisher
    if name in ("RowChange", "RowReader"):
        from shmroute.shm import reader

        return getattr(reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
