"""`shmroute completion`: prints the script by which a shell completes this command."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

_VARIABLE: Final = "_SHMROUTE_COMPLETE"
"""Environment variable by which the shell asks click for completions."""


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def command(shell: str) -> None:
    """Print the completion for SHELL, to be evaluated by it.

    \b
    bash: eval "$(shmroute completion bash)"    in ~/.bashrc
    zsh:  eval "$(shmroute completion zsh)"     in ~/.zshrc
    fish: shmroute completion fish > ~/.config/fish/completions/shmroute.fish
    """
    from shmroute.cli import group

    complete = get_completion_class(shell)
    assert complete is not None  # noqa: S101 - click knows the three
    click.echo(complete(group, {}, "shmroute", _VARIABLE).source(), nl=False)
