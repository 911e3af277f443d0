"""Builds the native twin of the look-up (src/shmroute/_native.c): a hook of hatchling, and a script.

    python .ci/native.py [DIRECTORY]      build it there; by default in place, for an editable install

Where it cannot be built (no C compiler, no headers of Python), the package is built without it and the plain twin runs.
SHMROUTE_NATIVE=require makes that an error, SHMROUTE_NATIVE=no skips the build. CC, CFLAGS and LDFLAGS are honoured.

The module keeps to the limited API of Python 3.11: one file serves every later version of one platform. A free-threaded
Python has no limited API and gets a module of its own version. Needs nothing but the standard library and a compiler.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "shmroute" / "_native.c"
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
FLAGS = ["-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-missing-field-initializers"]
LINK = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]


class CannotBuild(Exception):
    """Why there is no native twin."""


def file_name() -> str:
    """The module's file name on this Python."""
    return f"_native{sysconfig.get_config_var('EXT_SUFFIX')}" if FREE_THREADED else "_native.abi3.so"


def compiler() -> list[str]:
    """The command of a C compiler: CC, else the one that built Python, else the usual names."""
    if "CC" in os.environ:
        named = shlex.split(os.environ["CC"])
        if not named or shutil.which(named[0]) is None:
            raise CannotBuild(f"CC={os.environ['CC']}: no such command")
        return named
    for command in (sysconfig.get_config_var("CC") or "", "cc", "gcc", "clang"):
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return words
    raise CannotBuild("no C compiler")


def build(folder: Path) -> Path:
    """Compile the module into `folder`.

    Raises:
        CannotBuild: there is no compiler, or it fails.
    """
    made = folder / file_name()
    flags = shlex.split(os.environ.get("CFLAGS", "")), shlex.split(os.environ.get("LDFLAGS", ""))
    include = [f"-I{sysconfig.get_path(kind)}" for kind in ("include", "platinclude")]
    # Beside, then renamed: a process that has the former one loaded keeps it.
    temporary = made.with_name(f"{made.name}.new-{os.getpid()}")
    command = [*compiler(), *FLAGS, *flags[0], *include, *LINK, str(SOURCE), *flags[1], "-o", str(temporary)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotBuild(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        temporary.replace(made)
    except OSError as error:
        raise CannotBuild(f"{command[0]}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return made


def build_unless_told_not_to(folder: Path) -> Path | None:
    """`build`, as SHMROUTE_NATIVE says; None where the plain twin is to run."""
    wish = os.environ.get("SHMROUTE_NATIVE", "")
    if wish not in ("", "require", "no"):
        raise SystemExit(f"SHMROUTE_NATIVE={wish}: write require or no, or leave it unset")
    if wish == "no":
        return None
    try:
        return build(folder)
    except CannotBuild as error:
        if wish == "require":
            raise SystemExit(f"SHMROUTE_NATIVE=require: {error}") from error
        sys.stderr.write(f"shmroute is built without its native twin; the plain one runs. Reason: {error}\n")
        return None


def platform_tag() -> str:
    """The platform's tag in a wheel's name; whoever publishes a wheel runs auditwheel over it."""
    from packaging.tags import sys_tags

    return next(
        tag.platform for tag in sys_tags() if "manylinux" not in tag.platform and "musllinux" not in tag.platform
    )


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # as a script
    pass
else:

    class NativeTwin(BuildHookInterface[Any]):
        """Puts the module into a wheel, or beside its source for an editable install."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Called by hatchling before it builds a wheel; `version` is "editable" or "standard"."""
            if version == "editable":
                build_unless_told_not_to(SOURCE.parent)
                return
            self._folder = tempfile.TemporaryDirectory(prefix="shmroute-native-")  # until this hook is done with
            made = build_unless_told_not_to(Path(self._folder.name))
            if made is None:
                return
            number = f"cp{sys.version_info.major}{sys.version_info.minor}"
            build_data["pure_python"] = False
            build_data["tag"] = f"{f'{number}-{number}t' if FREE_THREADED else 'cp311-abi3'}-{platform_tag()}"
            build_data["force_include"][str(made)] = f"shmroute/{made.name}"


if __name__ == "__main__":
    made = build_unless_told_not_to(Path(sys.argv[1]) if sys.argv[1:] else SOURCE.parent)
    if made is not None:
        sys.stderr.write(f"built {made}\n")
