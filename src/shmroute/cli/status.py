"""`shmroute status`: the watcher's state and the age of the routes, once or live."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import click

from shmroute.cli import options
from shmroute.cli.output import bytes_text, document, fitted, paint, printable
from shmroute.errors import NotReady, StaleRoutes
from shmroute.watcher.report import age_words, counted, health, onlooker, report, settings_text
from shmroute.worker.reader import Reader

_REFRESH_SECONDS: Final = 0.5

_INDENT: Final = 12
"""Width of the column of names, in characters."""


@click.command()
@options.area
@click.option("--watch", "-w", is_flag=True, help="Show it again at each change until Ctrl-C; live on a terminal.")
@options.max_age
@options.output("table", "json", "yaml")
def command(area: str, watch: bool, max_age: float | None, output: str) -> None:
    """Show the watcher's state and the age of the routes.

    Ends with 7 if there are no routes yet, with 6 if they are older than --max-age.
    """
    with onlooker(area) as reader:
        if watch:
            _watch(reader, output)
            return
        facts = report(reader)
        if output == "table":
            click.echo(_text(facts))
        else:
            click.echo(document(facts, output))
        if not facts["generation"]:
            raise NotReady(area)
        if max_age is not None and reader.stale(max_age):
            raise StaleRoutes(reader.age, max_age)


def _text(facts: dict[str, Any]) -> str:
    """Return the facts for people, fitted to the terminal."""
    word = health(facts)[0]
    text = "\n".join(fitted(line, _INDENT) for line in _lines(facts))
    return text.replace(f" {word}: ", f" {paint(word, word)}: ", 1)


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    watcher = facts["watcher"]
    word, sentence = health(facts)
    yield f"area        {facts['area']}"
    yield f"state       {word}: {printable(sentence)}"
    yield f"source      {printable(settings_text(facts['source']))}"
    yield f"generation  {facts['generation']}"
    yield f"age         {_age(facts['age'])}{'' if facts['synced'] else '   (this watcher has not synced yet)'}"
    alive = "alive" if watcher["alive"] else "ended" if watcher["ended"] else "dead or frozen"
    yield f"watcher     pid {watcher['pid']}, {alive}, last heartbeat {_age(watcher['heartbeat_age'])} ago"
    yield f"look-ups    this command uses the {facts['look_up']} look-up"
    if facts["fault"]:
        yield f"fault       {printable(facts['fault'])}"
    if "rows" not in watcher:
        return
    if watcher["problem"] and watcher["problem"] not in sentence:
        yield f"problem     {printable(watcher['problem'])}"
    yield (
        f"table       {counted(watcher['models'], 'model')}, {counted(watcher['apps'], 'app')},"
        f" {counted(watcher['rows'], 'row')} of all kinds"
    )
    rebuilding = ", a new base is being built" if watcher["rebuilding"] else ""
    segment, log = bytes_text(watcher["segment_bytes"]), bytes_text(watcher["log_bytes"])
    yield f"memory      {bytes_text(facts['bytes'])} of shared memory, segment {segment}, log {log}{rebuilding}"
    yield f"conflicts   {watcher['conflicts']}"
    yield f"set aside   {counted(watcher['invalid'], 'object')}"
    for words in watcher["no_room"]:
        yield f"no room     {printable(words)}"
    newest = f", newest in {watcher['propagation_seconds'] * 1e3:.1f} ms" if watcher["propagations"] else ""
    generations = counted(watcher["publishes"], "generation")
    yield f"published   {generations} from {counted(watcher['events'], 'event')}{newest}"
    yield f"workers     {_workers(facts['workers'])}"
    for source in facts["sources"]:
        reason = f": {printable(source['reason'])}" if source["reason"] else ""
        phase = source["phase"] if watcher["alive"] else f"was {source['phase']}"
        yield (
            f"{source['resource']}: {phase}, {_in_step(source['age'])},"
            f" {counted(source['restarts'], 'restart')}, {counted(source['lists'], 'list')}{reason}"
        )
    for thread in watcher["threads"]:
        if thread["problem"] and not watcher["ended"]:
            state = f"{'running again' if thread['alive'] else 'not running'}, {counted(thread['restarts'], 'restart')}"
            yield f"thread      {thread['name']}: {state}: {printable(thread['problem'])}"
    metadata = watcher["metadata"]
    if metadata:
        problem = f": {printable(metadata['problem'])}" if metadata["problem"] else ""
        yield (
            f"metadata    {printable(metadata['store'])}: {counted(metadata['reads'], 'key')} read in"
            f" {counted(metadata['read_commands'], 'command')}, {metadata['skipped_by_version']} skipped by version,"
            f" {metadata['pending']} pending, {counted(metadata['failures'], 'failure')}{problem}"
        )


def _workers(workers: dict[str, Any]) -> str:
    if not workers["known"]:
        return f"unknown: {printable(workers['reason'])}"
    if not workers["count"]:
        return "none have the area open"
    behind = f", {workers['behind']} behind: `shmroute get workers`" if workers["behind"] else ""
    have = "has" if workers["count"] == 1 else "have"
    return f"{workers['count']} {have} the area open, oldest generation {workers['oldest']}{behind}"


def _in_step(age: float | None) -> str:
    return "never in step" if age is None else f"in step {age_words(age)} ago"


def _age(seconds: float | None) -> str:
    return "never" if seconds is None else age_words(seconds)


def _watch(reader: Reader, form: str) -> None:
    if form == "table" and sys.stdout.isatty():
        _redraw(reader)
    former: dict[str, Any] = {}
    while True:
        facts = report(reader)
        shown = {
            "generation": facts["generation"],
            "state": health(facts)[0],
            "sources": [source["phase"] for source in facts["sources"]],
        }
        if shown != former:
            former = shown
            click.echo(_line(facts) if form == "table" else document(facts, form))
        time.sleep(_REFRESH_SECONDS)


def _redraw(reader: Reader) -> NoReturn:
    """Show the facts at the top of the terminal, again and again. Each line erases what was there before."""
    click.clear()
    while True:
        shown = _text(report(reader)).splitlines()[: shutil.get_terminal_size().lines - 1]
        click.echo("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J", nl=False)
        time.sleep(_REFRESH_SECONDS)


def _line(facts: dict[str, Any]) -> str:
    phases = ", ".join(f"{source['resource']} {source['phase']}" for source in facts["sources"])
    word, sentence = health(facts)
    return f"generation {facts['generation']}, {word}: {printable(sentence)} ({phases})"
