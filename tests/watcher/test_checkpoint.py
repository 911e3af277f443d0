"""The checkpoint file: written completely or not at all, and read only if it is complete."""

from __future__ import annotations

import errno
import logging
import math
import os
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmroute.rows import Kind, RowKey
from shmroute.shm.layout import FORMAT_VERSION
from shmroute.shm.writing.publisher import Publisher
from shmroute.sources.base import Changed, Replaced
from shmroute.watcher import checkpoint as module
from shmroute.watcher.checkpoint import VERSION, Checkpoint, Identity, parse
from tests.processes import bound
from tests.watcher.running import SETTINGS, WAIT_SECONDS, appmodel, reading, running, wait_for

ROWS: dict[RowKey, bytes] = {(Kind.MODEL, f"m{number}"): b"route %d" % number for number in range(100)}


def publish(area: str, rows: dict[RowKey, bytes], *, age_seconds: float = 0.0) -> Publisher:
    publisher = Publisher(area)
    publisher.replace(rows)
    now = time.monotonic_ns()
    publisher.control.beat(now, now - int(age_seconds * 1e9), synced=True)
    return publisher


def save(path: Path, area: str) -> None:
    """Run one round of the writing thread, which writes once more at its end."""
    stop = threading.Event()
    stop.set()
    checkpoint(path, area).run(stop)


def checkpoint(path: Path, area: str) -> Checkpoint:
    """Return a checkpoint with the identity of the watcher in `tests.watcher.running`."""
    return Checkpoint(path, Identity(area, SETTINGS))


def moved(path: Path, area: str) -> None:
    """Make the file one of another area, as if a pod with all its shared memory had gone and come back."""
    saved = parse(path.read_bytes())
    path.write_bytes(sealed(saved.contact, Identity(area, SETTINGS), list_of(saved.rows)))


def list_of(rows: dict[RowKey, bytes]) -> list[tuple[int, str, bytes]]:
    return [(kind, key, value) for (kind, key), value in rows.items()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "checkpoint"
    area = f"test-{os.getpid()}-checkpoint"
    publisher = publish(area, ROWS)
    save(path, area)
    publisher.close(remove=True)
    return path.read_bytes()


def sealed(contact: float, identity: Identity, rows: object) -> bytes:
    """Return a checkpoint of any content with a valid checksum."""
    body = msgspec.msgpack.encode((identity, rows))
    rest = struct.pack("<dQ", contact, len(body)) + body
    return struct.pack("<8sHHI", b"shmrckpt", VERSION, FORMAT_VERSION, crc32(rest)) + rest


def with_facts(contact: float, rows: object) -> bytes:
    return sealed(contact, Identity("any", SETTINGS), rows)


# -- what is in it


def test_published_rows_are_read_back_with_their_age(area: str, tmp_path: Path) -> None:
    publish(area, ROWS, age_seconds=100.0).close()
    save(tmp_path / "checkpoint", area)

    saved = checkpoint(tmp_path / "checkpoint", area).load()
    assert saved is not None
    assert saved.rows == ROWS
    assert 99.0 < time.time() - saved.contact < 160.0


@pytest.mark.fault(2)
def test_no_checkpoint_is_written_while_not_in_step(area: str, tmp_path: Path) -> None:
    publisher = Publisher(area)
    publisher.replace(ROWS)
    save(tmp_path / "checkpoint", area)
    publisher.control.beat(time.monotonic_ns(), time.monotonic_ns(), synced=False)
    save(tmp_path / "checkpoint", area)
    publisher.close()
    assert list(tmp_path.iterdir()) == []


def test_no_checkpoint_is_written_without_an_area(area: str, tmp_path: Path) -> None:
    save(tmp_path / "checkpoint", area)
    assert list(tmp_path.iterdir()) == []


def test_only_its_owner_can_read_the_checkpoint(area: str, tmp_path: Path) -> None:
    publish(area, ROWS).close()
    before = os.umask(0)
    try:
        save(tmp_path / "checkpoint", area)
    finally:
        os.umask(before)
    assert (tmp_path / "checkpoint").stat().st_mode & 0o777 == 0o600


def test_checkpoint_is_written_to_a_new_file_and_renamed(area: str, tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(whole)
    publish(area, {(Kind.MODEL, "other"): b"x"}).close()
    with path.open("rb") as opened:
        save(path, area)
        assert opened.read() == whole, "who has the former one open keeps it, whole"
    assert parse(path.read_bytes()).rows == {(Kind.MODEL, "other"): b"x"}
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint"]


def test_leftover_beside_the_checkpoint_is_neither_kept_nor_followed(area: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "checkpoint.new").symlink_to(victim)
    publish(area, ROWS).close()
    save(tmp_path / "checkpoint", area)
    assert victim.read_text() == "mine"
    assert parse((tmp_path / "checkpoint").read_bytes()).rows == ROWS


def test_unchanged_rows_are_written_again_to_keep_their_age(
    area: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL_SECONDS", 0.01)
    path = tmp_path / "checkpoint"
    publisher = publish(area, ROWS, age_seconds=1_000.0)
    stop = threading.Event()
    thread = threading.Thread(target=checkpoint(path, area).run, args=(stop,))
    thread.start()
    try:
        wait_for(path.exists)
        first = parse(path.read_bytes()).contact
        publisher.control.beat(time.monotonic_ns(), time.monotonic_ns(), synced=True)
        wait_for(lambda: parse(path.read_bytes()).contact > first + module.CONTACT_SECONDS)
    finally:
        stop.set()
        thread.join()
        publisher.close()


# -- what is ignored


@pytest.mark.fault(2)
@pytest.mark.parametrize("position", ["start", "middle", "end"])
def test_a_damaged_checkpoint_is_ignored_with_a_warning(
    whole: bytes, position: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = bytearray(whole)
    damaged[{"start": 0, "middle": len(whole) // 2, "end": -1}[position]] ^= 0x10
    path = tmp_path / "checkpoint"
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert checkpoint(path, "any").load() is None
    assert f"checkpoint {path} is ignored" in caplog.text


@given(st.data())
def test_no_flipped_bit_goes_unnoticed(whole: bytes, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match=r"."):
        parse(bytes(damaged))


@pytest.mark.fault(2)
@given(st.data())
def test_no_cut_goes_unnoticed(whole: bytes, data: st.DataObject) -> None:
    with pytest.raises(ValueError, match=r"too few|cut short"):
        parse(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_a_foreign_file_and_another_version_are_distinguished(whole: bytes) -> None:
    with pytest.raises(ValueError, match="not a checkpoint"):
        parse(b"PK\3\4" + bytes(100))
    with pytest.raises(ValueError, match=f"version {VERSION + 1} with rows of format version {FORMAT_VERSION}, and"):
        parse(whole[:8] + struct.pack("<H", VERSION + 1) + whole[10:])
    with pytest.raises(ValueError, match=f"rows of format version {FORMAT_VERSION + 1}, and this process reads"):
        parse(whole[:10] + struct.pack("<H", FORMAT_VERSION + 1) + whole[12:])


@pytest.mark.parametrize("contact", [math.nan, math.inf, -math.inf, 1e300, -1e300, -1.0])
def test_a_non_numeric_age_counts_as_damage(contact: float) -> None:
    with pytest.raises(ValueError, match="last contact"):
        parse(with_facts(contact, []))


@pytest.mark.parametrize("rows", [{}, [1], [[1, "a"]], [["1", "a", b""]], [[65536, "a", b""]], [[0, "a", b""]]])
def test_undecodable_rows_are_damage_even_with_a_right_checksum(rows: object) -> None:
    with pytest.raises(ValueError, match="damaged"):
        parse(with_facts(0.0, rows))


def test_an_unreadable_checkpoint_is_ignored_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert checkpoint(tmp_path / "absent", "any").load() is None
    assert caplog.text == ""
    path = tmp_path / "checkpoint"
    path.symlink_to(path)
    assert checkpoint(path, "any").load() is None
    assert "cannot be read" in caplog.text


# -- what is refused


SETTINGS_OF_OTHERS = {
    "area": Identity("other", SETTINGS),
    "source": Identity("mine", msgspec.structs.replace(SETTINGS, source="https://10.0.0.1:6443")),
    "namespace": Identity("mine", msgspec.structs.replace(SETTINGS, namespace="other")),
    "all namespaces": Identity("mine", msgspec.structs.replace(SETTINGS, namespace="")),
    "selector": Identity("mine", msgspec.structs.replace(SETTINGS, selector="app=other")),
}


@pytest.mark.parametrize("of", SETTINGS_OF_OTHERS)
def test_rows_of_another_source_are_ignored_with_the_reason(
    of: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoint"
    theirs = SETTINGS_OF_OTHERS[of]
    path.write_bytes(sealed(1e9, theirs, list_of(ROWS)))
    mine = Checkpoint(path, Identity("mine", SETTINGS))
    assert mine.load() is None
    assert f"it holds {theirs}, and this watcher publishes {Identity('mine', SETTINGS)}" in caplog.text
    same = Checkpoint(path, theirs).load()
    assert same is not None
    assert same.rows == ROWS


def put_fifo(path: Path, _: bytes) -> None:
    os.mkfifo(path)


def put_folder(path: Path, _: bytes) -> None:
    path.mkdir()


def put_device(path: Path, _: bytes) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero: never ends
    except PermissionError:
        pytest.skip("only root may make a device")


def put_link(path: Path, whole: bytes) -> None:
    target = path.with_name("target")
    target.write_bytes(whole)
    path.symlink_to(target)


def put_strangers(path: Path, whole: bytes) -> None:
    path.write_bytes(whole)
    try:
        os.chown(path, 4321, 4321)
    except PermissionError:
        pytest.skip("only root may give a file away")


def put_writable(path: Path, whole: bytes) -> None:
    path.write_bytes(whole)
    path.chmod(0o666)


def put_huge(path: Path, whole: bytes) -> None:
    path.write_bytes(whole)
    os.truncate(path, 1 << 40)


@pytest.mark.fault(44)
@pytest.mark.parametrize(
    "put",
    [put_fifo, put_folder, put_device, put_link, put_strangers, put_writable, put_huge],
    ids=lambda put: put.__name__,
)
def test_a_foreign_file_is_neither_read_nor_replaced(
    put: Callable[[Path, bytes], None], area: str, whole: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoint"
    put(path, whole)
    before = path.lstat()
    assert checkpoint(path, area).load() is None
    assert f"checkpoint {path}" in caplog.text
    if put in (put_huge, put_writable):
        return  # our own file: a good one will replace it
    publish(area, ROWS).close()
    save(path, area)
    assert "cannot be written: it " in caplog.text
    after = path.lstat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)


def test_fifo_as_checkpoint_leaves_the_watcher_able_to_stop(area: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    os.mkfifo(path)
    command = [sys.executable, "-m", "shmroute", "watch", "--manifests", str(tmp_path), "--area", area]
    process = subprocess.Popen(bound([*command, "--checkpoint", str(path)]), stderr=subprocess.PIPE, text=True)
    try:
        with reading(area):
            process.terminate()
        _, text = process.communicate(timeout=WAIT_SECONDS)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "it is not a regular file" in text


def test_a_temporary_name_in_use_by_others_is_avoided(area: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.new").mkdir()
    publish(area, ROWS).close()
    save(tmp_path / "checkpoint", area)
    assert parse((tmp_path / "checkpoint").read_bytes()).rows == ROWS
    assert sorted(each.name for each in tmp_path.iterdir()) == ["checkpoint", "checkpoint.new"]


# -- when it cannot be written


def test_missing_folder_of_the_checkpoint_is_logged_and_harmless(
    area: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(area, ROWS).close()
    save(tmp_path / "absent" / "checkpoint", area)
    assert "cannot be written" in caplog.text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_the_former_checkpoint_whole(
    area: str, small_disk: Path, whole: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = small_disk / "checkpoint"
    path.write_bytes(whole)
    publish(area, {(Kind.MODEL, "m"): bytes(100_000)}).close()
    save(path, area)
    assert os.strerror(errno.ENOSPC) in caplog.text
    assert path.read_bytes() == whole
    assert [each.name for each in small_disk.iterdir()] == ["checkpoint"]


# -- a watcher with one


@pytest.mark.fault(2)
def test_pod_without_its_source_serves_the_checkpoint_as_not_in_step(
    make_area: Callable[[], str], area: str, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"
    with running(area, checkpoint=checkpoint(path, area)) as it:
        it.source.put(Replaced("appmodels", (appmodel("one"),)))
        it.source.in_step(time.monotonic_ns() - int(50e9))
        with reading(area) as reader:
            wait_for(lambda: 49.0 < reader.age < 1e9)
    assert path.exists(), "written at the end"

    other = make_area()
    moved(path, other)
    with running(other, checkpoint=checkpoint(path, other)) as it, reading(other) as reader:
        assert reader.resolve("one").app == "one"
        assert not reader.synced
        assert reader.age > 49.0
        assert reader.stale(30.0)

        it.source.put(Replaced("appmodels", (appmodel("two"),)))
        it.source.in_step()
        wait_for(lambda: reader.synced and reader.get("two") is not None)
        assert reader.get("one") is None, "the first list says what there is"
        wait_for(lambda: not reader.stale(30.0))


def test_age_of_a_checkpoint_survives_a_reboot(make_area: Callable[[], str], area: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    age = time.monotonic() + 86_400.0
    publish(area, ROWS, age_seconds=age).close()
    save(path, area)
    other = make_area()
    moved(path, other)
    with running(other, checkpoint=checkpoint(path, other)), reading(other) as reader:
        assert age <= reader.age < age + 60.0


@pytest.mark.fault(2)
def test_an_area_that_holds_rows_is_newer_than_the_checkpoint(area: str, tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(whole)
    with running(area) as it:
        it.source.put(Replaced("appmodels", (appmodel("one"),)))
        with reading(area):
            pass
    with running(area, checkpoint=checkpoint(path, area)) as it, reading(area) as reader:
        assert it.source.started.wait(10.0)
        assert set(reader.models()) == {"one"}


def test_a_failing_checkpoint_never_stops_publishing(
    area: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "INTERVAL_SECONDS", 0.01)
    with running(area, checkpoint=checkpoint(tmp_path / "absent" / "checkpoint", area)) as it:
        it.source.put(Replaced("appmodels", ()))
        it.source.in_step()
        wait_for(lambda: "cannot be written" in caplog.text)
        it.source.put(Changed("appmodels", appmodel("one")))
        with reading(area) as reader:
            wait_for(lambda: reader.get("one") is not None)
        assert not it.watcher.failed
