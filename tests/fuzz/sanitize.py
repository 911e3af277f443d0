"""The native twin under AddressSanitizer and UndefinedBehaviorSanitizer: `make sanitize`.

Builds the module with both into a folder of its own, then runs the tests of look-ups and of packing, and the fuzzer of
segments (`tests.fuzz.native`) with it. The first finding ends the run. Needs a C compiler with the two libraries (gcc
has them).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FLAGS: Final = "-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
TESTS: Final = (
    "tests/worker/test_lookup.py",
    "tests/worker/test_reader.py",
    "tests/worker/test_endpoints.py",
    "tests/shm/test_packing.py",
)
MODULE: Final = "SHMROUTE_TEST_NATIVE_MODULE"
"""Environment variable with the extension module that `load` uses instead of the installed one."""


def load() -> None:
    """Load the module that `MODULE` names, before `shmroute` looks for its own. Called by sitecustomize."""
    spec = importlib.util.spec_from_file_location("shmroute._native", os.environ[MODULE])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["shmroute._native"] = module


def runtime(name: str) -> str:
    """Return the path of one of the compiler's libraries."""
    compiler = os.environ.get("CC", "gcc")
    return subprocess.run(
        [compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.sanitize", description=__doc__)
    parser.add_argument("--look-ups", type=int, default=10_000_000, help="of the fuzzer (default: 10,000,000)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shmroute-sanitize-") as folder:
        environment = {
            **os.environ,
            "CFLAGS": FLAGS,
            "LDFLAGS": FLAGS,
            "SHMROUTE_NATIVE": "require",
        }
        subprocess.run([sys.executable, str(ROOT / ".ci" / "native.py"), folder], check=True, env=environment, cwd=ROOT)
        (made,) = Path(folder).glob("_native*.so")
        Path(folder, "sitecustomize.py").write_text("from tests.fuzz.sanitize import load\n\nload()\n")
        checked = {
            **os.environ,
            MODULE: str(made),
            "PYTHONPATH": f"{folder}:{ROOT / 'src'}:{ROOT}",
            "PYTHONMALLOC": "malloc",  # so that a read beyond a bytes object is seen
            "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')}",
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",  # the interpreter keeps much for its whole life
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        fuzzer = ["-m", "tests.fuzz.native", "--look-ups", str(options.look_ups), "--seed", str(options.seed)]
        for arguments in (["-m", "pytest", "-q", "-k", "native or packing", "-p", "no:cacheprovider", *TESTS], fuzzer):
            done = subprocess.run([sys.executable, *arguments], env=checked, cwd=ROOT, check=False)
            if done.returncode:
                return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
