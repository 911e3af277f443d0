"""Which manifest files a folder holds, and whether they are still what they were. Called by the folder source.

Files are told apart by what `stat` says, not by their content. Links are followed, as a mounted ConfigMap has
nothing else: `app.yaml -> ..data/app.yaml`, `..data -> ..2026_11_23_19_04_26`, where a new version is one rename
of the link `..data`. Subfolders are not looked into, as with `kubectl apply -f FOLDER`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TypeAlias

import msgspec

from shmroute.manifests.files import is_manifest_file

__all__ = ["Identity", "Listing", "Seen", "identity_of", "look_at", "read_folder", "switch_of"]

Identity: TypeAlias = tuple[int, int]
"""Device and inode."""

SWITCH = "..data"
"""The link that a kubelet swaps to change all files of a volume at once."""


class Seen(msgspec.Struct, frozen=True):
    """What `stat` says of a file; equal as long as the file is the same and untouched."""

    identity: Identity
    size: int
    modified_ns: int
    changed_ns: int
    linked_directory: Path | None = None
    """Where the file is, if the folder holds a link to it."""


class Listing(msgspec.Struct, frozen=True):
    """The state of the folder at one moment."""

    files: dict[str, Seen | None]
    """By name; None for a link that leads to no file."""
    directories: dict[Path, Identity]
    """What has to be watched to notice changes: the folder, and the directories that links lead to."""
    switch: str
    """Where the link `..data` led when the listing began, "" without one. If it leads elsewhere by the time
    the files have been read, they are of two versions."""


def read_folder(folder: Path) -> Listing:
    """List the folder. Raises `OSError` where there is none that can be listed."""
    switch = switch_of(folder)
    directories = {folder: _identity(folder.stat())}
    files: dict[str, Seen | None] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_manifest_file(entry.name):
                continue
            if entry.is_symlink():
                files[entry.name] = seen = look_at(folder / entry.name)
                directory = seen.linked_directory if seen else None
                if directory is not None and (identity := identity_of(directory)) is not None:
                    directories[directory] = identity
            elif entry.is_file(follow_symlinks=False) and (found := _stat(entry)) is not None:
                files[entry.name] = _seen(found)
    return Listing(files, directories, switch)


def look_at(path: Path) -> Seen | None:
    """One file of the folder; None if there is no such file, or it is no regular one."""
    try:
        found = path.lstat()
        linked_directory = None
        if stat.S_ISLNK(found.st_mode):
            found = path.stat()
            linked_directory = path.resolve().parent
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        return None
    return _seen(found, linked_directory) if stat.S_ISREG(found.st_mode) else None


def switch_of(folder: Path) -> str:
    """Where the folder's link `..data` leads, "" if it has none."""
    try:
        return str((folder / SWITCH).readlink())
    except OSError:
        return ""


def identity_of(path: Path) -> Identity | None:
    """Which directory stands under this path now; None where there is none."""
    try:
        return _identity(path.stat())
    except OSError:
        return None


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # gone since
        return None


def _seen(found: os.stat_result, linked_directory: Path | None = None) -> Seen:
    return Seen(_identity(found), found.st_size, found.st_mtime_ns, found.st_ctime_ns, linked_directory)


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino
