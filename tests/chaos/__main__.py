"""`python -m tests.chaos --seconds 600 --seed 1`: play, judge, and end with 0 only if everything held."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time

from tests.chaos.acts import ACTS
from tests.chaos.stage import Stage, stage
from tests.chaos.verdict import verdict

OWN_SHM_BYTES = 64 * 1024 * 1024
"""Size of /dev/shm as in a container: small enough to be filled within a second."""


def main() -> int:
    """Parse the options, move into a namespace of our own if we may, and play."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults are played")
    parser.add_argument("--seed", type=int, default=1, help="the schedule; a failing one can be played again")
    options = parser.parse_args()
    _move_into_own_namespace()
    own = os.environ.get("SHMROUTE_CHAOS_OWN_SHM") == "1"
    print(f"seed {options.seed}, {options.seconds:g} s, {'own' if own else 'shared'} /dev/shm", flush=True)
    with stage(options.seed) as parts:
        _play(parts, options.seconds)
        problems = verdict(parts)
        answers, lookups = sum(parts.answers.values()), sum(parts.answers.values()) * 200
        print(
            f"{answers} requests, {lookups} look-ups, {parts.failed_requests} requests cut by faults,"
            f" generation {max(parts.generations, default=0)}, {len(parts.answers)} workers lived",
            flush=True,
        )
    for problem in problems:
        print(f"FAILED: {problem}")
    print("clean" if not problems else f"{len(problems)} problems; again with --seed {options.seed}")
    return 1 if problems else 0


def _play(parts: Stage, seconds: float) -> None:
    started = time.monotonic()
    while (now := time.monotonic() - started) < seconds:
        act = parts.dice.choice(ACTS)
        print(f"{now:7.1f} {act.__name__}", flush=True)
        act(parts)
        parts.keep_standby()
    parts.api.faults.clear()
    print(f"{time.monotonic() - started:7.1f} all faults are over", flush=True)


def _move_into_own_namespace() -> None:
    """Start again in a mount namespace with a small /dev/shm, where that is permitted."""
    if "SHMROUTE_CHAOS_OWN_SHM" in os.environ:
        return
    os.environ["SHMROUTE_CHAOS_OWN_SHM"] = "0"
    unshare = shutil.which("unshare")
    if unshare is None:
        return
    mount = f"mount -t tmpfs -o size={OWN_SHM_BYTES} tmpfs /dev/shm"
    if subprocess.run([unshare, "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        return
    os.environ["SHMROUTE_CHAOS_OWN_SHM"] = "1"
    command = 'mount -t tmpfs -o size="$0" tmpfs /dev/shm && exec "$@"'
    again = [sys.executable, "-m", "tests.chaos", *sys.argv[1:]]
    os.execv(unshare, [unshare, "-m", "sh", "-c", command, str(OWN_SHM_BYTES), *again])


if __name__ == "__main__":
    sys.exit(main())
