"""`clew methods`: read from the files of `explainers/`, which are not run, for torch takes seconds to import."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from unicodedata import normalize

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from ..errors import OptionError, close_matches

app = typer.Typer(add_completion=False)
console = Console()
_FOLDER = Path(__file__).parents[1] / "explainers"
_DEFAULT = (
    "Without a method `clew explain` takes beyond_intuition_token: nothing measured was better by all numbers. It is "
    "among the first where the object is sought, in the middle by what erasing does, where libra_full_grad_plus and "
    "pa_lrp come first (docs/joint-table.md)."
)


@dataclass(frozen=True)
class MethodEntry:
    """What is written of a method; `options` are its defaults, as they are written."""

    paper: str
    summary: str
    doc: str
    options: dict[str, str]


def entries() -> dict[str, MethodEntry]:
    """All methods of clew, by name, and those of plugins."""
    found: dict[str, MethodEntry] = {}
    for file in sorted(_FOLDER.glob("*.py")):
        functions = [node for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
        for function in functions:
            for call in function.decorator_list:
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "method":
                    found[function.name] = _entry(function, call)
    register: Any = sys.modules.get("clew.explainers")  # imported only where a plugin was run
    for name, one in register.methods().items() if register else ():
        options = {option: repr(default) for option, default in one.options.items()}
        doc = inspect.getdoc(one.function) or one.summary
        found.setdefault(name, MethodEntry(one.paper, one.summary, doc, options))
    return found


def _entry(function: ast.FunctionDef, decorator: ast.Call) -> MethodEntry:
    said = {word.arg: ast.literal_eval(word.value) for word in decorator.keywords}
    defaults = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    options = {option.arg: ast.unparse(default) for option, default in defaults if default is not None}
    return MethodEntry(said["paper"], said["summary"], ast.get_docstring(function) or said["summary"], options)


def references(paper: str) -> list[str]:
    """BibTeX entries of what a method says it is by, such as "Chefer et al. 2021a, eq. 13-14; Qiang et al. 2022"."""
    written = (_FOLDER / "papers.bib").read_text("utf-8")
    known = {
        entry.partition("{")[2].partition(",")[0]: entry for entry in re.findall(r"^@.*?^}$", written, re.M | re.S)
    }
    keys = [_key(part) for part in paper.split(";")]
    return [known[key] for key in keys if key in known]


def _key(paper: str) -> str:
    """The first author and the year."""
    found = re.match(r"(\w+).*?(\d{4}[a-z]?)", paper.strip())
    plain = normalize("NFKD", found[1]).encode("ascii", "ignore").decode().lower() if found else ""
    return plain + found[2] if found else ""


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One method, in full.")] = None,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="The papers as BibTeX.")] = False,
) -> None:
    """List the methods with their papers and options, or show one in full."""
    known = entries()
    if name is not None and name not in known:
        raise OptionError(f"no method {name!r}", got=repr(name), todo=close_matches(name, known))
    if bibtex:
        chosen = [known[name]] if name is not None else list(known.values())
        found = [entry for one in chosen for entry in references(one.paper)]
        typer.echo("\n\n".join(sorted(set(found))) or f"% {name} is by no paper")
        return
    if name is not None:
        entry = known[name]
        console.print(f"[bold]{name}[/bold]  ({escape(entry.paper)})\n")
        console.print(escape(entry.doc))
        options = ", ".join(f"{option}={default}" for option, default in entry.options.items())
        console.print("\noptions: " + escape(options or "none"))
        return
    table = Table(Column("method", no_wrap=True), "what it is", "paper")
    for key, entry in known.items():
        table.add_row(key, escape(entry.summary), escape(entry.paper))
    console.print(table)
    console.print("`clew methods NAME` shows a method's equation and options.")
    console.print(_DEFAULT)
