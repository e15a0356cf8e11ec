"""The order of the rooms, the names that are public, and how little `import clew` needs."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import clew

SOURCE = Path(clew.__file__).parent

# A room imports only from rooms above it; imports inside functions count. The first are single files.
ROOMS = [
    "version", "errors", "shapes", "traversal", "progress", "registry", "literals", "validation", "pickles",
    "files",
    "statistics",
    "rules",
    "draw",
    "minis",
    "inputs",
    "targets",
    "attributions",
    "places",
    "datasets",
    "models",
    "seam",
    "streams",
    "subject",
    "lrp",
    "mass",
    "explainers",
    "verification",
    "explaining",
    "loading",
    "metrics",
    "evaluation",
    "requests",
    "demo", "any_diagnosis", "diagnosis",
    "training",
    "app",
    "cli",
]  # fmt: skip
OUTSIDE = ("", "__main__")  # `clew` itself, which hands out what is public


def modules():
    """Files by the names of their modules."""
    for file in sorted(SOURCE.rglob("*.py")):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


FILES = dict(modules())


def imports_of(name, file):
    """Modules that a file imports from; of a package that has no such module, the package."""
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = ".".join([*base, *(node.module.split(".") if node.module else [])])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "clew":
            target = node.module.removeprefix("clew").removeprefix(".")
        else:
            continue
        for alias in node.names:
            inner = f"{target}.{alias.name}".removeprefix(".")
            yield inner if inner in FILES else target


def room(name):
    return name.split(".")[0]


def test_every_file_is_in_a_room():
    assert {room(name) for name in FILES if name not in OUTSIDE} == set(ROOMS)


def test_rooms_import_from_rooms_above():
    wrong = [
        f"{name} imports {target}"
        for name, file in FILES.items()
        for target in imports_of(name, file)
        if name not in OUTSIDE
        and room(name) != room(target)
        and (target in OUTSIDE or ROOMS.index(room(target)) >= ROOMS.index(room(name)))
    ]
    assert not wrong


def test_there_is_no_circle_inside_a_room():
    """A package that is imported before its own parts, as `models.architectures`, is one file with them."""
    graph = defaultdict(set)
    for name, file in FILES.items():
        for target in imports_of(name, file):
            apart = not target.startswith(f"{name}.") and not name.startswith(f"{target}.")
            if name not in OUTSIDE and room(name) == room(target) and apart and target != room(name):
                graph[name].add(target)
    list(graphlib.TopologicalSorter(graph).static_order())


def test_every_room_says_what_it_is_for():
    for name in ROOMS:
        lines = ast.get_docstring(ast.parse(FILES[name].read_text("utf-8")))
        assert lines and len(lines) > 20, name


def test_no_file_is_long():
    lines = {name: len(file.read_text("utf-8").splitlines()) for name, file in FILES.items()}
    assert not {name: count for name, count in lines.items() if count > 400}


def test_only_the_seam_intercepts_torch():
    for name, file in FILES.items():
        text = file.read_text("utf-8")
        if name != "seam.interception":
            assert "TorchFunctionMode" not in text, name
        for banned in ("print(", "sys.exit(", "exit("):
            writes_code = name in ("app.page_requests", "app.chat_requests")  # the page
            speaks = name in ("cli.main", "cli.ui") or writes_code or name.startswith("minis.train_")
            if not speaks:
                assert banned not in text.replace("console.print(", "").replace("fingerprint(", ""), (name, banned)


def test_no_room_hides_a_public_name():
    """Importing a module sets it as an attribute of its package, in place of a function of the same name."""
    public = {name for name in clew.__all__ if not isinstance(getattr(clew, name), type(sys))}
    assert not public & set(ROOMS)
    script = (
        "import importlib, types, clew; before = {n: getattr(clew, n) for n in clew.__all__};"
        f"[importlib.import_module(f'clew.{{n}}') for n in {[n for n in ROOMS if n != 'app']!r}];"
        "print([n for n in before if getattr(clew, n) is not before[n]])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_public_names_exist_once():
    assert len(clew.__all__) == len(set(clew.__all__))  # ruff keeps the order
    assert all(hasattr(clew, name) for name in clew.__all__)


def imported(script):
    """Which of some packages that take long to import a script imports."""
    heavy = [
        "torch", "transformers", "timm", "torchvision", "matplotlib", "sklearn", "scipy", "pandas", "pyarrow",
        "datasets", "gradio", "ray", "rich.console", "typer", "jinja2", "pydantic",
    ]  # fmt: skip
    script += f"\nimport sys; print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return ast.literal_eval(run.stderr.splitlines()[-1])


def test_importing_costs_nothing_and_all_exports_cost_torch():
    assert imported("import clew") == []
    assert imported("import clew; [getattr(clew, name) for name in clew.__all__]") == ["torch"]


COMMAND = "import sys; from clew.cli.main import main; sys.argv = ['clew', {}]\ntry: main()\nexcept SystemExit: pass"


@pytest.mark.parametrize("words", ["'--help'", "'--version'", "'methods'", "'methods', 'pa_lrp'"])
def test_what_needs_no_model_is_answered_without_torch(words):
    assert set(imported(COMMAND.format(words))) <= {"rich.console", "typer", "pydantic"}


def test_a_picture_is_explained_without_what_tables_and_pages_need(tmp_path):
    clew.scenes().images[0].save(tmp_path / "scene.png")
    words = f"'explain', {str(tmp_path / 'scene.png')!r}, '-m', 'mini:digits', '-o', {str(tmp_path / 'page.html')!r}"
    found = imported(COMMAND.format(words))
    assert (tmp_path / "page.html").exists()
    assert not {"timm", "pandas", "pyarrow", "datasets", "gradio", "ray"} & set(found)


def test_everything_public_is_documented():
    missing = [name for name in clew.__all__ if not (getattr(clew, name).__doc__ or "").strip()]
    assert not missing


def handed_out(room):
    """Names that a room's `__init__` hands out."""
    tree = ast.parse(FILES[room].read_text("utf-8"))
    return {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_what_a_room_hands_out_is_taken_from_it():
    """Others need not know which file of a room something is in."""
    wrong = [
        f"{name} imports {alias.name} from {node.module}"
        for name, file in FILES.items()
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if name not in OUTSIDE and isinstance(node, ast.ImportFrom) and node.level > 1 and "." in (node.module or "")
        for alias in node.names
        if node.module.split(".")[0] in ROOMS and room(name) != room(node.module)
        if alias.name in handed_out(room(node.module))
    ]
    assert not wrong
