"""`shmroute check`: validate manifests offline, for a pipeline."""

from __future__ import annotations

import click


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
def command(paths: tuple[str, ...]) -> None:
    """Validate the AppModels in PATHs (files, folders, - for standard input) without a cluster.

    Prints a line per problem and ends with 1 if there is any. A model that several AppModels of one namespace claim is
    a warning: the oldest AppModel would serve it. Objects of other kinds are skipped.
    """
    from shmroute.cli.output import printable
    from shmroute.errors import InvalidObject
    from shmroute.manifests import files
    from shmroute.resources.appmodel import find_problems
    from shmroute.resources.registry import APPMODELS

    problems: list[str] = []
    checked = skipped = 0
    claims: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        try:
            documents = files.read([path])
        except InvalidObject as error:
            problems.append(str(error))
            continue
        for document in documents:
            # An AppModel of another version, or in other letters, is a mistake and not skipped.
            if document.kind.lower() != APPMODELS.kind.lower():
                skipped += 1
                continue
            checked += 1
            found = find_problems(document.manifest)
            problems += [f"{document.where}: {problem}" for problem in found]
            if not found:
                metadata = document.manifest["metadata"]
                for model in document.manifest["spec"]["models"]:
                    claim = (str(metadata.get("namespace") or ""), model["name"])
                    claims.setdefault(claim, []).append(metadata["name"])
    for problem in problems:
        click.echo(printable(f"error: {problem}"))
    for (namespace, model), names in sorted(claims.items()):
        if len(names) > 1:
            where = f" in namespace {namespace}" if namespace else ""
            click.echo(printable(f"warning: model {model!r}{where} is claimed by AppModels {', '.join(names)}"))
    click.echo(f"{checked} AppModels checked, {skipped} other objects skipped, {len(problems)} problems", err=True)
    if problems:
        raise SystemExit(1)
