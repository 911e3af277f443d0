"""The status page: one HTML document, made anew for each request.

The page works without scripts: state, tables, search and explanations are in the document. The script only refreshes
the parts marked `data-live`. All text from the cluster is escaped; the Content-Security-Policy allows only the script
and the style in `page/`, and no other host.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from shmroute.watcher.events import in_words, time_in_words
from shmroute.watcher.report import age_words, counted, settings_text
from shmroute.watcher.views import HISTORY_SECONDS, Views

_STYLE: Final = (files("shmroute.watcher") / "page" / "page.css").read_text("utf-8")
_SCRIPT: Final = (files("shmroute.watcher") / "page" / "page.js").read_text("utf-8")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


HEADERS: Final = (
    (b"content-type", b"text/html; charset=utf-8"),
    (
        b"content-security-policy",
        f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; connect-src 'self';"
        " img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'".encode(),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
"""The page's headers. The hashes allow exactly the page's own script and style (Content Security Policy level 2)."""

_SYMBOLS: Final = {"ok": "✓", "old": "!", "bad": "✕"}
_API: Final = ("status", "history", "models", "tables", "events", "conflicts", "invalid")
EVENTS_SHOWN: Final = 20
"""Largest number of events on the page; the newest come first."""

MAX_WORKERS: Final = 50
"""Largest number of workers on the page; those behind come first."""

_PLOT_WIDTH: Final = 300
_PLOT_HEIGHT: Final = 60
_MIN_SPAN: Final = 60
"""Shortest time that a plot shows, in seconds; it grows to `HISTORY_SECONDS`."""


class Asked(NamedTuple):
    """Parameters in the page's URL."""

    search: str = ""
    """Part of a model's name, or of a key of `table`; "" for no search."""
    model: str = ""
    """Model to explain; "" for none."""
    table: str = ""
    """Declared table to search; "" to search the models."""
    key: str = ""
    """Key of `table` to explain; "" for none."""
    start: int = 0
    """Index of the first search result to show."""


def render(views: Views, samples: Sequence[dict[str, Any]], asked: Asked) -> str:
    """Return the page as HTML.

    Args:
        views: the area's data.
        samples: `History.samples()`.
        asked: the URL's parameters.
    """
    facts = views.status()
    word, text = facts["health"]["state"], facts["health"]["text"]
    title = f"shmroute: {facts['area']} {word}"
    parts = [
        f"<h1>shmroute <span class='dim'>area {escape(facts['area'])}</span></h1>",
        f"<div id='state' data-live role='status'>{_state(word, text)}</div>",
        f"<div id='facts' data-live>{_numbers(facts)}</div>",
        f"<h2>Sources</h2><div id='sources' data-live>{_sources(facts)}</div>",
        f"<h2>Workers</h2><div id='workers' data-live>{_workers(facts['workers'])}</div>",
        f"<h2>The last {HISTORY_SECONDS // 60} minutes</h2><div id='plots' data-live>{_plots(samples)}</div>",
        f"<h2>Tables</h2><div id='tables' data-live>{_tables(views)}</div>",
        f"<h2 id='find'>Find {'a key of ' + escape(asked.table) if asked.table else 'a model'}</h2>{_form(asked)}",
        f"<div id='found' data-live>{_found_key(views, asked) if asked.table else _found(views, asked)}</div>",
        f"<h2>What changed</h2><div id='events' data-live>{_events(views, asked.model or None)}</div>",
        f"<h2>Conflicts</h2><div id='conflicts' data-live>{_conflicts(views)}</div>",
        f"<h2>Set aside</h2><div id='invalid' data-live>{_invalid(views)}</div>",
        f"<p class='dim'>Read only. The same as JSON: {', '.join(map(_api_link, _API))}.</p>",
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><link rel='icon' href='data:,'><style>{_STYLE}</style>"
        "<noscript><meta http-equiv='refresh' content='5'></noscript></head>"
        f"<body><main>{''.join(parts)}</main><script>{_SCRIPT}</script></body></html>"
    )


def _state(word: str, text: str) -> str:
    return f"<p class='state {word}'>{_SYMBOLS[word]} {word}: <span>{escape(text)}</span></p>"


def _api_link(name: str) -> str:
    return f"<a href='/api/{name}'>/api/{name}</a>"


def _numbers(facts: dict[str, Any]) -> str:
    watcher = facts["watcher"]
    alive = "alive" if watcher["alive"] else "ended" if watcher["ended"] else "dead or frozen"
    pairs = [
        ("Source", settings_text(facts["source"])),
        ("Generation", facts["generation"]),
        ("Watcher", f"pid {watcher['pid']}, {alive}, heartbeat {age_words(watcher['heartbeat_age'])} ago"),
    ]
    if "rows" in watcher:
        newest = f", newest change in {watcher['propagation_seconds'] * 1e3:.1f} ms" if watcher["propagations"] else ""
        generations = counted(watcher["publishes"], "generation")
        pairs += [
            ("Routes", f"{counted(watcher['models'], 'model')}, {counted(watcher['apps'], 'app')}"),
            ("Shared memory", f"{facts['bytes'] / 2**20:.1f} MiB"),
            ("Published", f"{generations} from {counted(watcher['events'], 'event')}{newest}"),
            ("Conflicts", watcher["conflicts"]),
            ("Set aside", watcher["invalid"]),
        ]
        metadata = watcher["metadata"]
        if metadata:
            problem = f", {metadata['problem']}" if metadata["problem"] else ""
            pairs.append(("Metadata", f"{metadata['store']}: {metadata['pending']} pending{problem}"))
    return f"<dl>{_items(pairs)}</dl>"


def _items(pairs: Iterable[tuple[str, object]]) -> str:
    return "".join(f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>" for name, value in pairs)


def _table(label: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in a scrolling region. Cells are escaped unless they are `_Html`."""
    head = "".join(f"<th scope='col'>{name}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{cell if isinstance(cell, _Html) else escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='{label}'>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


class _Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def _sources(facts: dict[str, Any]) -> str:
    rows = [
        (
            source["resource"],
            source["phase"],
            "never" if source["age"] is None else f"{age_words(source['age'])} ago",
            source["restarts"],
            source["lists"],
            source["reason"] or "none",
        )
        for source in facts["sources"]
    ]
    if not rows:
        return "<p>No source has reported yet.</p>"
    return _table("Sources", ("Resource", "Phase", "In step", "Restarts", "Lists", "Problem"), rows)


def _workers(workers: dict[str, Any]) -> str:
    if not workers["known"]:
        return f"<p>Unknown: {escape(workers['reason'])}</p>"
    if not workers["count"]:
        return "<p>No process has the area open.</p>"
    rows = [
        (
            item["pid"],
            item["state"],
            item["generation"],
            f"{age_words(item['noted_seconds'])} ago",
            item["reason"] or "none",
        )
        for item in workers["items"][:MAX_WORKERS]
    ]
    more = len(workers["items"]) - len(rows)
    rest = f"<p class='dim'>{more} more: /api/status has them all.</p>" if more else ""
    return _table("Workers", ("Pid", "State", "Generation", "Last move", "Problem"), rows) + rest


def _plots(samples: Sequence[dict[str, Any]]) -> str:
    plots = (
        ("Generations per second", "generations", ""),
        ("Propagation of changes", "propagation_ms", " ms"),
        ("Age of the oldest source", "age", " s"),
        ("Workers", "workers", ""),
        ("Workers behind", "behind", ""),
    )
    return "<div class='plots'>" + "".join(_plot(samples, *each) for each in plots) + "</div>"


def _plot(samples: Sequence[dict[str, Any]], title: str, field: str, unit: str) -> str:
    values = [(number, sample[field]) for number, sample in enumerate(samples) if sample[field] is not None]
    largest = max((value for _, value in values), default=0.0)
    newest = values[-1][1] if values else 0.0
    span = max(_MIN_SPAN, len(samples) - 1)
    first = max(0, span - len(samples) + 1)
    points = [
        (
            (first + number) / span * _PLOT_WIDTH,
            _PLOT_HEIGHT - (value / largest if largest else 0.0) * (_PLOT_HEIGHT - 2) - 1,
        )
        for number, value in values
    ]
    line = " ".join(f"{'M' if not index else 'L'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))
    digits = 1 if unit else 0  # without a unit it is a count
    most = f"{newest:.{digits}f}{unit} now, {largest:.{digits}f}{unit} at most"
    text = f"{title}: {most if values else 'none yet'}"
    return (
        f"<figure><svg role='img' aria-label='{text}' viewBox='0 0 {_PLOT_WIDTH} {_PLOT_HEIGHT}'"
        f" preserveAspectRatio='none'><path d='{line}'/></svg><figcaption>{text}</figcaption></figure>"
    )


def _tables(views: Views) -> str:
    page = views.tables()
    if not page["items"]:
        return "<p>None are declared (--tables).</p>"
    rows = [
        (
            _link(item["table"], table=item["table"]),
            item["resource"],
            "ready" if item["ready"] else f"not ready: {item['reason'] or item['phase']}",
            item["rows"],
            "never" if item["age"] is None else f"{age_words(item['age'])} ago",
            item["conflicts"],
            item["invalid"],
        )
        for item in page["items"]
    ]
    return _table("Tables", ("Table", "Resource", "State", "Rows", "In step", "Conflicts", "Set aside"), rows)


def _form(asked: Asked) -> str:
    value = escape(asked.search or asked.model or asked.key, quote=True)
    hidden = f"<input type='hidden' name='table' value='{escape(asked.table, quote=True)}'>" if asked.table else ""
    label = "Part of a key" if asked.table else "Part of a model's name"
    return (
        f"<form action='/' method='get' role='search'>{hidden}<label>{label}"
        f"<input type='search' name='search' value='{value}'></label><button>Find</button></form>"
    )


def _link(text: str, **parameters: object) -> _Html:
    return _Html(f"<a href='/?{escape(urlencode(parameters), quote=True)}#find'>{escape(text)}</a>")


def _found_key(views: Views, asked: Asked) -> str:
    """Return one key of a declared table explained, or the list of keys that match the search."""
    if asked.key:
        facts = views.table_row(asked.table, asked.key)
        if facts is None:
            return f"<p>No row of {escape(asked.table)} has the key <strong>{escape(asked.key)}</strong>.</p>"
        pairs = [
            ("Resource", facts["resource"]),
            ("Table", "ready" if facts["ready"] else "not ready"),
            ("Value", f"{facts['bytes']} bytes"),
            ("Served object", facts["served_object"] or "not known: this watcher does not write the area"),
            ("Others that claim it", ", ".join(facts["waiting_objects"]) or "none"),
        ]
        items = _items(pairs)
        return (
            f"<h3>{escape(asked.key)}</h3><dl>{items}{_value('Value', facts['value']) if 'value' in facts else ''}</dl>"
        )
    page = views.table(asked.table, asked.search, asked.start)
    if page is None:
        return f"<p>There is no table <strong>{escape(asked.table)}</strong>.</p>"
    if not page["items"]:
        return f"<p>No key contains <strong>{escape(asked.search)}</strong>.</p>"
    rows = [
        (_link(item["key"], table=asked.table, key=item["key"]), f"{item['bytes']} bytes") for item in page["items"]
    ]
    return _table("Keys found", ("Key", "Value"), rows) + _more(page, table=asked.table, search=asked.search)


def _more(page: dict[str, Any], **parameters: object) -> str:
    return f"<p>{_link('More', **parameters, start=page['next'])}</p>" if page["next"] is not None else ""


def _value(name: str, value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return f"<div><dt>{name}</dt><dd><pre>{escape(text)}</pre></dd></div>"


def _found(views: Views, asked: Asked) -> str:
    search, model = asked.search, asked.model
    if model:
        facts = views.model(model)
        if facts is None:
            return f"<p>No app serves model <strong>{escape(model)}</strong>.</p>"
        return f"<h3>{escape(model)}</h3><dl>{_explained(facts)}</dl>"
    if not search:
        return "<p class='dim'>Shows which AppModel serves it, its metadata's state and its endpoints.</p>"
    page = views.models(search, asked.start)
    if not page["items"]:
        return f"<p>No model's name contains <strong>{escape(search)}</strong>.</p>"
    rows = [
        (_link(item["model"], model=item["model"]), item["version"], item["app"], item["namespace"])
        for item in page["items"]
    ]
    return _table("Models found", ("Model", "Version", "App", "Namespace"), rows) + _more(page, search=search)


def _explained(facts: dict[str, Any]) -> str:
    metadata, endpoints = facts["metadata"], facts["endpoints"]
    pairs: list[tuple[str, Any]] = [
        ("Served by", f"app {facts['app']} {facts['app_version']}, model version {facts['version']}"),
        ("Because", f"AppModel {facts['appmodel']} claims it" + (f" and {facts['claim']}" if facts["claim"] else "")),
        ("Others that claim it", ", ".join(facts["waiting_appmodels"]) or "none"),
        ("Other namespaces", "; ".join(facts["other_namespaces"]) or "none"),
        ("Metadata", _metadata_words(metadata)),
        ("Metadata key", metadata["key"] or "unknown" if metadata else "none"),
        ("Service", f"{endpoints['service'] or 'unknown'}: {endpoints['state']}"),
        ("Ready endpoints", ", ".join(endpoints["ready"]) or "none"),
        ("Endpoints not ready", ", ".join(endpoints["not_ready"]) or "none"),
    ]
    return _items(pairs) + (_value("Metadata value", facts["metadata_value"]) if "metadata_value" in facts else "")


def _metadata_words(metadata: dict[str, Any] | None) -> str:
    if metadata is None:
        return "none is read"
    value = f"{metadata['bytes']} bytes of version {metadata['version']}" if metadata["version"] else "no value"
    return ", ".join(part for part in (metadata["state"], value, metadata["reason"]) if part)


def _events(views: Views, model: str | None) -> str:
    """Return the newest events: of all rows, or only of `model`."""
    page = views.events(model=model, limit=EVENTS_SHOWN)
    if page["problem"]:
        return f"<p>Unknown: {escape(page['problem'])}</p>"
    if not page["items"]:
        return "<p>Nothing is in the log.</p>"
    rows = [(time_in_words(event["time"]), in_words(event)) for event in page["items"]]
    return _table("What changed", ("Time (UTC)", "What"), rows)


def _conflicts(views: Views) -> str:
    page = views.conflicts()
    if not page["items"]:
        return "<p>None.</p>"
    rows = [
        (_link(item["model"], model=item["model"]), item["namespace"], item["winner"], ", ".join(item["losers"]))
        for item in page["items"]
    ]
    return _table("Conflicts", ("Model", "Namespace", "Served by AppModel", "Also claimed by"), rows) + _rest(page)


def _invalid(views: Views) -> str:
    page = views.invalid()
    if not page["items"]:
        return "<p>None.</p>"
    rows = [
        (
            item["kind"],
            f"{item['namespace']}/{item['name']}".lstrip("/"),
            "last valid state" if item["last_good"] else "nothing",
            item["reason"],
        )
        for item in page["items"]
    ]
    return _table("Set aside", ("Kind", "Name", "Served", "Reason"), rows) + _rest(page)


def _rest(page: dict[str, Any]) -> str:
    return "<p class='dim'>More in the JSON listing below.</p>" if page["next"] is not None else ""
