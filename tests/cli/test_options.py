"""Every option can be given as an environment variable, and `--help` says which."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from shmroute.cli import COMMANDS, group
from shmroute.cli.watch_arguments import watch_arguments
from shmroute.cli.watch_options import misspelt_variables
from tests.cli.running import Cli, published
from tests.kube.peers import write_kubeconfig

KUBERNETES_SUFFIXES = ("_SERVICE_HOST", "_SERVICE_PORT", "_PORT", "_PORT_80_TCP")
"""Endings of variables that Kubernetes sets for a Service: `SHMROUTE_PORT` for a Service named shmroute."""


def watch_context(arguments: list[str]) -> click.Context:
    """The context of `shmroute watch` with these arguments. Without the group a command keeps --help, but not -h."""
    parent = group.make_context("shmroute", [], resilient_parsing=True)
    command = group.get_command(parent, "watch")
    assert command is not None
    return command.make_context("watch", arguments, parent=parent)


def commands() -> Iterator[tuple[click.Context, click.Command]]:
    context = group.make_context("shmroute", [], resilient_parsing=True)
    for name in COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        yield from _with_parts(context, name, command)


def _with_parts(
    parent: click.Context, name: str, command: click.Command
) -> Iterator[tuple[click.Context, click.Command]]:
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    yield context, command
    if isinstance(command, click.Group):
        for part in command.list_commands(context):
            found = command.get_command(context, part)
            assert found is not None
            yield from _with_parts(context, part, found)


def options() -> Iterator[tuple[click.Context, click.Option, str]]:
    """Yield each option, with the variable it can be given as."""
    for context, command in commands():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                named = parameter.envvar
                assert parameter.name is not None
                default = f"{context.auto_envvar_prefix}_{parameter.name.upper()}"
                yield context, parameter, named if isinstance(named, str) else default


def test_every_option_has_a_variable_and_its_help_names_it() -> None:
    for context, option, variable in options():
        assert variable.startswith("SHMROUTE_")
        if not option.hidden:
            text = " ".join(context.command.get_help(context).split())
            assert f"env var: {variable}" in text, (context.command_path, option.name)


def test_no_variable_name_clashes_with_kubernetes_service_variables() -> None:
    variables = {variable for _, _, variable in options()}
    assert not variables & {f"SHMROUTE{suffix}" for suffix in KUBERNETES_SUFFIXES}


def test_every_variable_works() -> None:
    for context, option, variable in options():
        kind = option.type
        if option.is_flag or option.is_bool_flag:
            text = "0" if option.get_default(context) is True else "1"
        elif isinstance(kind, click.Choice):
            text = str(list(kind.choices)[-1])
        elif kind in (click.INT, click.FLOAT) or isinstance(kind, (click.IntRange, click.FloatRange)):
            text = "7"
        else:
            text = "told"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(variable, text)
            value, source = option.consume_value(context, {})
            assert source is click.core.ParameterSource.ENVIRONMENT, (context.command_path, option.name, variable)
            converted = option.type_cast_value(context, value)
        assert converted != option.get_default(context), (context.command_path, option.name)


def test_an_option_overrides_its_variable(cli: Cli, area: str) -> None:
    with published(area):
        answered = cli("resolve", "model1", "-o", "json", SHMROUTE_AREA=area, SHMROUTE_OUTPUT="name")
        assert json.loads(answered.out)["model"] == "model1"
        assert cli("resolve", "model1", SHMROUTE_AREA=area, SHMROUTE_OUTPUT="name").out == "model1\n"


@pytest.mark.parametrize("variable", ["SHMROUTE_VERSION", "SHMROUTE_PORT", "SHMROUTE_SERVICE_HOST"])
def test_variables_of_other_programs_are_ignored(cli: Cli, area: str, variable: str) -> None:
    with published(area):
        assert (
            cli("resolve", "model1", "-o", "name", SHMROUTE_AREA=area, **{variable: "tcp://1.2.3.4"}).out == "model1\n"
        )


def test_every_command_has_help_and_a_line_in_the_overview(cli: Cli) -> None:
    out = cli("--help").out
    for name, text in COMMANDS.items():
        assert name in out
        assert text.split()[0] in out
        answered = cli(name, "-h")
        assert answered.code == 0
        assert f"shmroute {name}" in answered.out
    assert " keep " not in out


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version").out.startswith("shmroute ")


# -- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(cli: Cli, shell: str) -> None:
    answered = cli("completion", shell)
    assert answered.code == 0
    assert "_SHMROUTE_COMPLETE" in answered.out
    source = cli(_SHMROUTE_COMPLETE=f"{shell}_source")
    assert answered.out == source.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("shmroute ex", {"explain"}),
        ("shmroute ", set(COMMANDS)),
        ("shmroute get mo", {"models"}),
        ("shmroute get models --all", {"--all-namespaces"}),
        ("shmroute get models -o ", {"table", "wide", "json", "yaml", "name"}),
        ("shmroute crd ", {"print", "install"}),
    ],
)
def test_completion_knows_commands_options_and_choices(cli: Cli, words: str, expected: set[str]) -> None:
    count = len(words.split()) - (0 if words.endswith(" ") else 1)
    answered = cli(_SHMROUTE_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(count))
    assert {line.partition(",")[2] for line in answered.out.splitlines()} == expected


@pytest.mark.parametrize(
    ("given", "namespaces"),
    [
        ([], ()),
        (["-n", "a"], ("a",)),
        (["-n", "a", "-n", "b,c"], ("a", "b", "c")),
        (["--namespace", "a,b"], ("a", "b")),
        (["-n", " a"], (" a",)),
    ],
)
def test_namespaces_are_repeated_or_separated_by_commas(given: list[str], namespaces: tuple[str, ...]) -> None:
    context = watch_context(given)

    assert context.params["namespaces"] == namespaces
    assert watch_arguments(context) == [text for name in namespaces for text in ("--namespace", name)]


@pytest.mark.parametrize(("given", "seconds"), [("off", 0.0), ("5", 5.0), ("300", 300.0), ("12.5", 12.5)])
def test_a_probe_period_is_a_number_or_off(given: str, seconds: float) -> None:
    context = watch_context(["--probe-seconds", given])

    assert context.params["probe_seconds"] == seconds
    again = watch_context(watch_arguments(context))
    assert again.params["probe_seconds"] == seconds


@pytest.mark.parametrize("given", ["4", "301", "nan", "soon", "", "-5"])
def test_a_probe_period_out_of_bounds_is_a_usage_error(given: str) -> None:
    with pytest.raises(click.BadParameter, match="or off"):
        watch_context([f"--probe-seconds={given}"])


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "soon"])
@pytest.mark.parametrize(
    "command",
    ["watch --resync", "run --wait", "wait --timeout", "status --max-age", "resolve m --max-age", "audit --timeout"],
)
def test_infinite_or_nan_seconds_are_a_usage_error(cli: Cli, command: str, seconds: str) -> None:
    done = cli(*command.split(), seconds, *(["--", "true"] if command.startswith("run") else []))
    assert done.code == 2
    assert "Invalid value" in done.err


def test_an_empty_option_of_the_watcher_is_a_usage_error(cli: Cli) -> None:
    done = cli("watch", "--manifests", "")
    assert done.code == 2
    assert "--manifests is empty" in done.err


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("SHMROUTE_NAMESPCE", "SHMROUTE_NAMESPACE"),
        ("SHMROUTE_KUBECONFG", "SHMROUTE_KUBECONFIG"),
        ("SHMROUTE_SELECTORS", "SHMROUTE_SELECTOR"),
        ("SHMROUTE_NAMESPACE", None),
        ("SHMROUTE_DIR", None),
        ("SHMROUTE_OUTPUT", None),
        ("SHMROUTE_PORT", None),
        ("SHMROUTE_GROUPS_SERVICE_PORT", None),
        ("OTHER_NAMESPCE", None),
    ],
)
def test_a_variable_that_looks_misspelt_is_named(variable: str, meant: str | None) -> None:
    command = watch_context([]).command
    assert list(misspelt_variables(command, [variable])) == ([(variable, meant)] if meant else [])


@pytest.mark.parametrize("namespace", ["a,b", " a", "a\n", "Meta-Test", "*", ""])
def test_a_namespace_that_cannot_exist_is_refused(cli: Cli, namespace: str, tmp_path: Path) -> None:
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")
    for command in (["delete", "app"], ["apply", "app", "--version", "v1", "--model", "m=1"]):
        done = cli(*command, "--kubeconfig", kubeconfig, "-n", namespace)
        assert done.code != 0
        assert "not the name of a namespace" in done.err, done.err


def test_two_namespaces_where_one_is_allowed_are_a_usage_error(cli: Cli) -> None:
    for command in ("get", "resolve", "delete", "apply"):
        done = cli(command, "-n", "a", "-n", "b")
        assert "give one namespace, or -A for all" in done.err
