"""Rows `(kind, key) -> bytes` from one writing process to many reading ones, lock-free.

Knows generations, segments and their bytes; never knows what a model is. Of use on its own, see docs/low-level.md:
`Publisher` (one per area) and `RowReader` (any number, in any process). Both names are loaded when they are asked
for, so that a worker never loads the publisher. docs/format.md says where each byte lies.

The generation protocol
=======================

An *area* is a control block, which lives as long as the area, and at most two *segments*: the current one, and the
*retired* one that was current before.

**What a segment holds.** A table of 64-bit slots (open addressing by a hash with a secret key) followed by records,
each written once. The first records are the *base*: the whole table as it was when the segment was built. After the
base comes the *log*: each generation appends one *batch*, the records that changed, deletions included. A record
carries the offset of the record it supersedes, so a slot leads to every version of its row that the segment holds,
the newest first.

**Publishing** a generation costs what changed. The writer, in this order,

1. appends the batch, its generation last, beyond what any reader looks at;
2. points the changed rows' slots at the new records (each an aligned 64-bit store);
3. stores the offset of the batch as the *hint* for processes that attach later;
4. stores the new generation into **the one word** that readers watch: an aligned 64-bit float in the control block (a
   float, since CPython reads and compares one faster than an integer of that size; exact to 2**53).

Between the steps stands a memory fence, for processors that would let a reader see them in another order.

**Reading.** A reader has a generation and the offset where its log ends for it. Where a slot leads beyond that end,
the reader follows the chain back to the newest record before it: any state of the slots, in the middle of a publish
or after the writer was killed there, gives each reader exactly its own generation. When the word has changed, the
reader walks the batches up to it; each is checked against its checksum before anything of it is believed, and names
the rows that changed, which is all that a memo has to drop.

**A new base.** When the log has outgrown a fraction of the base, the writer copies the rows, a slice at a time
between publishes, into the retired segment, replays the batches published meanwhile, and then *seals* the current
segment: the last batch of its log says which segment continues. Readers go over with warm memos. Once the generation
is stored, the control block names the new current segment, and the old one is retired. A sealed segment marked
*reset* continues in one whose rows may differ in any way: memos are dropped whole.

**Recycling.** So memory has a bound that does not depend on readers: a worker that never looks again pins one of the
same two files for ever. What the retired segment held is void from the moment at which the writer stores *oldest*, a
word of the control block: every segment whose base began before that generation may be overwritten. The writer stores
it, then a full fence, then overwrites the first byte. A reader copies what it needs, bounds checked, and loads
*oldest* after an acquire fence: if the segment is void by then, the copy is discarded, whatever it looked like, and
the reader goes to the newest generation. Looking up, listing, following the log and attaching all do so. A file never
shrinks (a truncated mapping is a SIGBUS) and grows in powers of two, of address space only. The retired segment rests
for a second where the log has room, so that readers that are one base behind follow the log; at full rate it does
not.

**Attaching** takes constant time: the control block names the segment, the segment's hint the end of the log. If the
segment has just been retired and is void, the reader looks at the control block again; after a bounded number of
times it gives up with an error.

**A crash** of the writer at any instant leaves either a batch that is not valid, which nobody looks at and the next
writer overwrites, or one that is: then its slots may or may not have been set, and the next writer sets them again
and stores the word. A base that was not finished has no header, so nobody can attach to it; the next writer begins it
again in the same file. The control block names both files, so none is lost. The lock is `flock` on a file that only
its owner can open: it dies with its process, and is not left to children. The same is done after an exception in the
middle of a publish. The old lock, on the control block, is taken too, so that watchers of format version 2 and this
one keep out of each other's way.

**Removing an area** begins with the word, which becomes infinite: whoever maps the block then looks for another of
its name. A writer that finds such a block finishes the removal and makes a new one. Files that somebody else removed
under a running writer are noticed at its next heartbeat, and the area is made anew in the same way.

**Whom to believe.** Names of segments are random; the owner and mode of every file are checked on the open descriptor
(`shmroute.shm.trust`).

**Damage** (somebody else's writes, a file cut short, another format version) is found before it is believed: headers,
batches and records carry checksums, a slot is compared with the record it leads to, and a row that is not found is
looked for with a check of all that lies on the way. What these cannot see: a slot that was overwritten as a whole,
with another valid one of the same row (an older value) or with zeros (the row is missing).

Memory is reserved (`posix_fallocate`) before it is written, and before it is read: behind the last batch lies an
empty header, whose place a sealing one can always take. So a full /dev/shm is an error of the writer, never a SIGBUS
in anyone.
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
