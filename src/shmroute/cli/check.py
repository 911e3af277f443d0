"""`shmroute check`: validate manifests and tables files offline, for a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from shmroute.manifests.files import Document


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
def command(paths: tuple[str, ...]) -> None:
    """Validate the AppModels in PATHs (files, folders, - for standard input) without a cluster.

    A PATH may also be a file that declares tables (--tables). Prints a line per problem and ends with 1 if there is
    any. A model that several AppModels of one namespace claim is a warning: the oldest AppModel would serve it. So is
    an AppModel in two files. Objects of other API groups are skipped.
    """
    from shmroute.cli.output import printable
    from shmroute.errors import ConfigError, InvalidObject
    from shmroute.manifests import files
    from shmroute.resources.appmodel import find_problems
    from shmroute.resources.registry import APPMODELS
    from shmroute.watcher.report import counted
    from shmroute.watcher.tables_file import is_tables_file, read_tables

    problems: list[str] = []
    checked = skipped = tables = 0
    places: dict[tuple[str, str], list[str]] = {}
    claims: dict[tuple[str, str], dict[str, None]] = {}
    for path in paths:
        if is_tables_file(path):
            try:
                tables += len(read_tables(path, (), several_namespaces=False))
            except ConfigError as error:
                problems += str(error).splitlines()
            continue
        try:
            documents = files.read([path])
        except InvalidObject as error:
            problems.append(str(error))
            continue
        for document in documents:
            found = _kind_problems(document)
            if found is None:
                skipped += 1
                continue
            checked += 1
            found = found or find_problems(document.manifest)
            problems += [f"{document.where}: {problem}" for problem in found]
            if not found:
                metadata = document.manifest["metadata"]
                namespace = str(metadata.get("namespace") or "")
                places.setdefault((namespace, metadata["name"]), []).append(document.where)
                for model in document.manifest["spec"]["models"]:
                    claims.setdefault((namespace, model["name"]), {})[metadata["name"]] = None
    for problem in problems:
        click.echo(printable(f"error: {problem}"))
    for (namespace, name), where in sorted(places.items()):
        if len(where) > 1:
            click.echo(printable(f"warning: AppModel {name!r}{_of(namespace)} is in {' and in '.join(where)}"))
    for (namespace, model), names in sorted(claims.items()):
        if len(names) > 1:
            text = f"warning: model {model!r}{_of(namespace)} is claimed by AppModels {', '.join(names)}"
            click.echo(printable(text))
    declared = f"{counted(tables, 'table')} checked, " if tables else ""
    others = counted(skipped, "other object")
    own = counted(checked, APPMODELS.kind)
    click.echo(f"{own} checked, {declared}{others} skipped, {counted(len(problems), 'problem')}", err=True)
    if problems:
        raise SystemExit(1)


def _of(namespace: str) -> str:
    return f" in namespace {namespace}" if namespace else ""


def _kind_problems(document: Document) -> list[str] | None:
    """Return the problems of the document's kind; None if it is not one of shmroute's.

    An AppModel in other letters or of another group, and another kind of its group, are mistakes and not skipped.
    """
    from shmroute.resources.registry import APPMODELS

    if document.kind.lower() == APPMODELS.kind.lower():
        return []
    if document.api_version.rpartition("/")[0] != APPMODELS.group:
        return None
    return [f"kind is {document.kind!r}, which {APPMODELS.group} does not have: did you mean {APPMODELS.kind}?"]
