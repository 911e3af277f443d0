"""`shmroute status`: how the watcher stands and how fresh the routes are, once or live."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import click

from shmroute.cli import options
from shmroute.cli.output import age_text, document
from shmroute.errors import StaleRoutes
from shmroute.shm.control import ControlReader
from shmroute.watcher.status import Status, decode_status
from shmroute.worker.reader import Reader

_REFRESH_SECONDS: Final = 0.5

FROZEN_SECONDS: Final = 5.0
"""A heartbeat older than this (five beats) means that the watcher is dead or frozen."""


@click.command()
@options.area
@click.option("--watch", "-w", is_flag=True, help="Go on showing it, until Ctrl-C; live on a terminal.")
@click.option("--max-age", type=float, envvar="SHMROUTE_MAX_AGE", help="End with 6 if the routes are older (seconds).")
@options.output("table", "json", "yaml")
def command(area: str, watch: bool, max_age: float | None, output: str) -> None:
    """Say how the watcher stands and how fresh the routes are.

    Ends with 7 if there are no routes yet, with 6 if they are older than --max-age.
    """
    with Reader(area) as reader:
        if watch:
            _watch(reader, output)
            return
        state = snapshot(reader)
        click.echo("\n".join(lines(state)) if output == "table" else document(state, output))
        if max_age is not None and reader.stale(max_age):
            raise StaleRoutes(reader.age, max_age)


def snapshot(reader: Reader) -> dict[str, Any]:
    """What there is to say, of builtin types; ages in seconds, None where something has never been."""
    generation = reader.generation
    control = ControlReader(reader.area)
    page = control.status()
    status = decode_status(page) if page else None
    heartbeat = (time.monotonic_ns() - control.heartbeat_ns) / 1e9
    return {
        "area": reader.area,
        "generation": generation,
        "age": _finite(reader.age),
        "synced": reader.synced,
        "watcher": {
            "pid": control.writer_pid,
            "alive": heartbeat < FROZEN_SECONDS,
            "heartbeat_age": heartbeat,
            **(_watcher(status) if status else {}),
        },
        "sources": _sources(status) if status else [],
        "fault": str(reader.fault) if reader.fault else None,
    }


def _watcher(status: Status) -> dict[str, Any]:
    shown = {
        field: getattr(status, field)
        for field in status.__struct_fields__
        if field not in ("area", "sources", "source_ages", "metadata")
    }
    metadata = status.metadata
    shown["metadata"] = {field: getattr(metadata, field) for field in metadata.__struct_fields__} if metadata else None
    return shown


def _sources(status: Status) -> list[dict[str, Any]]:
    return [
        {
            "resource": state.resource,
            "phase": state.phase,
            "age": _finite(age),
            "reason": state.reason,
            "restarts": state.restarts,
            "lists": state.lists,
            "backoff_seconds": state.backoff_seconds,
        }
        for state, age in zip(status.sources, status.source_ages, strict=True)
    ]


def _finite(seconds: float) -> float | None:
    return seconds if seconds != float("inf") else None


def _age(seconds: float | None) -> str:
    return "never" if seconds is None else age_text(seconds)


def lines(state: dict[str, Any]) -> Iterator[str]:
    """The same for the eye."""
    watcher = state["watcher"]
    yield f"area        {state['area']}"
    yield f"generation  {state['generation']}"
    yield f"age         {_age(state['age'])}{'' if state['synced'] else '   (this watcher has not synced yet)'}"
    alive = "alive" if watcher["alive"] else "dead or frozen"
    yield f"watcher     pid {watcher['pid']}, {alive}, last heartbeat {_age(watcher['heartbeat_age'])} ago"
    if state["fault"]:
        yield f"fault       {state['fault']}"
    if "rows" not in watcher:
        return
    if watcher["problem"]:
        yield f"problem     {watcher['problem']}"
    yield f"table       {watcher['models']} models, {watcher['apps']} apps, {watcher['rows']} rows"
    rebuilding = ", a new base is being built" if watcher["rebuilding"] else ""
    yield f"memory      {watcher['segment_bytes']} bytes of /dev/shm, log {watcher['log_bytes']}{rebuilding}"
    yield f"set aside   {watcher['conflicts']} conflicts, {watcher['invalid']} invalid"
    newest = f", newest in {watcher['propagation_seconds'] * 1e3:.1f} ms" if watcher["propagations"] else ""
    yield f"published   {watcher['publishes']} generations from {watcher['events']} events{newest}"
    for source in state["sources"]:
        reason = f": {source['reason']}" if source["reason"] else ""
        yield (
            f"source      {source['resource']}: {source['phase']}, in step {_age(source['age'])} ago,"
            f" {source['restarts']} restarts, {source['lists']} lists{reason}"
        )
    metadata = watcher["metadata"]
    if metadata:
        problem = f": {metadata['problem']}" if metadata["problem"] else ""
        yield (
            f"metadata    {metadata['store']}: {metadata['reads']} keys read in {metadata['read_commands']} commands,"
            f" {metadata['skipped_by_version']} skipped by version, {metadata['pending']} pending,"
            f" {metadata['failures']} failures{problem}"
        )


def _watch(reader: Reader, form: str) -> None:
    import sys

    if form == "table" and sys.stdout.isatty():
        from shmroute.cli.live import live

        live(reader, _REFRESH_SECONDS)
        return
    former: dict[str, Any] = {}
    while True:
        state = snapshot(reader)
        told = {"generation": state["generation"], "sources": [source["phase"] for source in state["sources"]]}
        if told != former:
            former = told
            click.echo(_line(state) if form == "table" else document(state, form))
        time.sleep(_REFRESH_SECONDS)


def _line(state: dict[str, Any]) -> str:
    phases = ", ".join(f"{source['resource']} {source['phase']}" for source in state["sources"])
    return f"generation {state['generation']}, age {_age(state['age'])}, {phases}"
