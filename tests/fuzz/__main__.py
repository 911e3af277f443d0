"""The fuzzers for a given time each: `python -m tests.fuzz --seconds 600 --seed 1 [FILE...]`, or `make fuzz`.

Each turn is a pytest run of one file with a seed of its own; the first failure ends it and says how to have it again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

MORE: Final = (Path("tests/shm/test_stateful.py"),)
"""Property tests outside this folder that are run too."""

NO_TESTS: Final = 5
"""pytest's exit code if no test was selected."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each file (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the first turn; each turn adds one (default: 1)")
    parser.add_argument(
        "files", nargs="*", type=Path, help="by default all of tests/fuzz, and tests/shm/test_stateful.py"
    )
    arguments = parser.parse_args()
    own = sorted(path.relative_to(ROOT) for path in Path(__file__).parent.glob("test_*.py"))
    for file in arguments.files or [*own, *MORE]:
        if not fuzz(file, arguments.seconds, arguments.seed):
            return 1
    return 0


def fuzz(file: Path, seconds: float, seed: int) -> bool:
    """Run one file's fuzzers turn by turn. False if one has found something."""
    deadline = time.monotonic() + seconds
    turns = 0
    while not turns or time.monotonic() < deadline:
        command = [
            *(sys.executable, "-m", "pytest", "tests/fuzz/conftest.py", str(file), "-q", "-x", "-m", "hypothesis"),
            *(
                "-p",
                "no:cacheprovider",
                "--timeout=0",
                "--hypothesis-profile=turn",
                f"--hypothesis-seed={seed + turns}",
            ),
        ]
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if finished.returncode not in (0, NO_TESTS):
            print(finished.stdout, finished.stderr, sep="\n")
            print(f"{file}: failed in turn {turns + 1}; again with:\n  {' '.join(command)}", flush=True)
            return False
        turns += 1
    print(f"{file}: {turns} turns of 400 examples a test, nothing found", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
