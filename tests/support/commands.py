"""The command line, called as it is typed, and every command of docs/reproduce.md."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from clew.cli import main as cli

TEXT = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]
ROOT: Any = typer.main.get_command(cli.app)


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The name of the command and its arguments, read by the command's own parser; nothing is run."""
    assert words[0] == "clew"
    group, rest = ROOT, words[1:]
    while hasattr(group, "commands"):
        group, rest = group.commands[rest[0]], rest[1:]
        group = group.command() if isinstance(group, cli.Command) else group
    helps = "--help" in rest
    rest = [word for word in rest if word != "--help"]
    context = group.context_class(group, info_name=group.name, resilient_parsing=helps)
    group.parse_args(context, rest)
    return group.name, context.params


def run(*arguments: object):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
