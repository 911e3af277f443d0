"""Decides whose shared memory this process trusts. Writers and readers check every descriptor that they open.

A name in `/dev/shm` proves nothing: any user of the machine may take it first. So the owner, type and mode of each file
are checked on its open descriptor.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from shmroute.errors import AreaUnreadable, ConfigError, NoAccess

TRUST_VARIABLE: Final = "SHMROUTE_TRUST"
"""Environment variable with the ids of further users whose areas this process trusts, separated by commas."""

MAX_ID: Final = (1 << 32) - 2
"""Largest number of a user or a group: the next one means "do not change" to chown(2)."""


def trusted_users() -> frozenset[int]:
    """Return the ids of the trusted users: this process's own, root's, and those in `SHMROUTE_TRUST`.

    Raises:
        ConfigError: `SHMROUTE_TRUST` is not a list of user ids.
    """
    users = {os.geteuid(), 0}
    for text in os.environ.get(TRUST_VARIABLE, "").split(","):
        word = text.strip()
        if not word:
            continue
        if not (word.isascii() and word.isdigit() and int(word) <= MAX_ID):
            raise ConfigError(f"{TRUST_VARIABLE} has {word!r}: write user ids as numbers, separated by commas")
        users.add(int(word))
    return frozenset(users)


def check_opened(name: str, status: os.stat_result, *, group_writes: bool = False) -> None:
    """Refuse a file that an untrusted user controls.

    Args:
        name: the file's name, for messages.
        status: status of the open descriptor.
        group_writes: whether members of the file's group may write it (the workers' register).

    Raises:
        AreaUnreadable: the file is not a regular file.
        NoAccess: an untrusted user owns the file, or others may write it.
    """
    if not stat.S_ISREG(status.st_mode):
        raise AreaUnreadable(name, "it is not a shared memory object")
    if status.st_uid not in trusted_users():
        raise NoAccess(
            name,
            f"user {status.st_uid} owns it, whom this process (user {os.geteuid()}) does not trust",
            f": if that user runs your watcher, set {TRUST_VARIABLE}={status.st_uid} here; if not, remove the file or"
            " choose another area (SHMROUTE_AREA)",
        )
    forbidden = stat.S_IWOTH if group_writes else stat.S_IWOTH | stat.S_IWGRP
    if status.st_mode & forbidden:
        raise NoAccess(
            name,
            f"its mode {stat.S_IMODE(status.st_mode):04o} lets other users write it",
            ": remove it, and let the watcher make it anew",
        )
