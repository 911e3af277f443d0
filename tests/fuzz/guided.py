"""Fuzzing that is guided by coverage, where atheris is installed: `python -m tests.fuzz.guided TARGET --seconds 600`.

It follows the branches of shmroute's own modules, from recorded and damaged bytes on, and checks what the tests beside
it check. One target a run, as libFuzzer ends its process; what it finds is told, and kept as a file in a folder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

from shmroute.resources.registry import BUILT_IN
from shmroute.shm.layout import SLOTS_AT, unpack_segment_header

with atheris.instrument_imports(include=["shmroute"]):
    from tests.fuzz import test_checkpoint, test_objects, test_segment, test_wire

KINDS = BUILT_IN

OVERWRITTEN_BYTES = 40


def line(data: bytes) -> None:
    for kind in KINDS:
        test_wire.check_line(data, kind)


def page(data: bytes) -> None:
    for kind in KINDS:
        test_wire.check_page(data, kind)


def lines(data: bytes) -> None:
    """Decode lines cut at places that the first bytes choose."""
    test_wire.check_lines(data[8:], data[:8])


def objects(data: bytes) -> None:
    test_objects.check_object(data)
    test_objects.check_problems(data)


def checkpoint(data: bytes) -> None:
    """Parse the data as it is, and as a body after a valid header."""
    test_checkpoint.check_file(data)
    test_checkpoint.check_file(test_checkpoint.sealed(1e9, data))


class Segment:
    """Writes bytes over a segment's records and log, at the place given by the first two bytes."""

    def __init__(self) -> None:
        self._original = test_segment.make_original()
        self._laid = test_segment.Laid(self._original)
        whole = self._original.segment
        self._begin = unpack_segment_header("segment", bytes(whole[:SLOTS_AT]), len(whole)).records_at

    def __call__(self, data: bytes) -> None:
        offset = self._begin + int.from_bytes(data[:2], "little") % (self._original.end - self._begin)
        over = data[2 : OVERWRITTEN_BYTES + 2]
        self._laid.change("segment", offset, over)
        test_segment.check(self._laid)
        self._laid.change("segment", offset, self._original.segment[offset : offset + len(over)])


TARGETS: dict[str, tuple[Callable[[], Callable[[bytes], None]], list[bytes]]] = {
    "line": (lambda: line, test_wire.EVENTS),
    "page": (lambda: page, test_wire.PAGES),
    "lines": (lambda: lines, [b"\5\6\7\x08\x20\x30\x40\x50" + each for each in test_wire.EVENTS]),
    "objects": (lambda: objects, test_objects.OBJECTS),
    "checkpoint": (lambda: checkpoint, [test_checkpoint.WHOLE, test_checkpoint.BODY]),
    "segment": (Segment, [bytes([at, 0, 255]) for at in range(0, 256, 8)]),
}
"""Name of a target -> the function that takes the bytes, and the first inputs."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path.cwd(), help="a folder (default: the current one)")
    arguments = parser.parse_args()
    make, beginnings = TARGETS[arguments.target]
    with tempfile.TemporaryDirectory() as corpus:
        for number, each in enumerate(beginnings):
            (Path(corpus) / str(number)).write_bytes(each)
        options = [f"-max_total_time={arguments.seconds}", f"-seed={arguments.seed}", "-timeout=10", "-len_control=0"]
        atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={arguments.findings}/", corpus], make())
        atheris.Fuzz()


if __name__ == "__main__":
    main()
