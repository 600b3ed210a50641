"""The house rules: floors, sizes, documentation and the frozen public surface."""

from __future__ import annotations

import ast
import graphlib
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "surefoot"

# A room is a package or a file right under src/surefoot. It imports from lower floors only.
FLOORS = {
    "cli": 9,
    "__main__": 10,
    "page": 8,
    "benchmark": 6,
    "checking": 6,
    "compiler": 1,
    "run": 7,
    "progress": 4,
    "options": 2,
    "trial": 7,
    "lab": 7,
    "integrations": 7,
    "testing": 7,
    "__init__": 9,  # `import surefoot`: the public names
    "watching": 6,
    "guarding": 5,
    "diagnosis": 4,
    "attach": 3,
    "probes": 3,
    "remedies": 3,
    "views": 3,
    "signals": 2,
    "theory": 2,
    "record": 2,
    "build": 1,
    "environment": 2,
    "launch": 2,
    "live_page": 3,
    "kernels": 1,
    "keras_tree": 0,
    "layers": 1,
    "files": 1,
    "findings": 1,
    "forks": 1,
    "halted": 2,
    "script": 1,
    "imports": 1,
    "version": 1,
    "voice": 1,
}
# The few imports along a floor: (importing room, imported room).
SIDEWAYS = {
    ("record", "signals"),
    ("checking", "watching"),
    ("benchmark", "watching"),
    ("remedies", "probes"),
    ("lab", "trial"),
    ("integrations", "testing"),
}

# Never a part of the core; an integration imports its own inside a function.
FORBIDDEN = {
    "accelerate",
    "jax",
    "keras",
    "lightning",
    "matplotlib",
    "mlflow",
    "pandas",
    "playwright",
    "pytorch_lightning",
    "scipy",
    "seaborn",
    "sklearn",
    "tensorboard",
    "tensorflow",
    "torchaudio",
    "torchvision",
    "transformers",
    "wandb",
}

PUBLIC = {
    "BuildError",
    "Cause",
    "Check",
    "Evidence",
    "Finding",
    "Gain",
    "Guard",
    "Pathology",
    "Proof",
    "ProofError",
    "Remedy",
    "Report",
    "Severity",
    "TrainingHalted",
    "Verdict",
    "Watch",
    "__version__",
    "apply",
    "check",
    "gain",
    "guard",
    "prove",
    "report",
    "watch",
}
COMMANDS = {
    "run": {
        "--dry-run",
        "--fail-on",
        "--guard",
        "--ignore",
        "--json",
        "--name",
        "--no-forensics",
        "--no-record",
        "--quiet",
        "--runs",
        "--view",
        "-m",
        "arguments",
        "script",
    },
    "check": {"--fail-on", "--ignore", "--json", "--output", "--quiet", "-o", "target"},
    "prove": {
        "--budget",
        "--json",
        "--output",
        "--patch",
        "--quiet",
        "--ray",
        "--remedy",
        "--seeds",
        "--steps",
        "--workers",
        "-o",
        "target",
    },
    "benchmark": {"--json", "--seconds", "target"},
    "report": {"--output", "-o", "run"},
    "explain": {"name"},
    "export": {"--force", "--output", "-o", "run"},
    "view": {"--host", "--no-browser", "--port", "runs"},
    "watch": {"--fail-on", "--once", "run"},
    "lab": {"--json", "--output", "--seed", "-o", "name"},
}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50

MODULES = sorted(SOURCE.rglob("*.py"))
MODULE_IDS = [str(path.relative_to(SOURCE)) for path in MODULES]


def dotted(path: Path) -> str:
    """src/surefoot/record/series.py -> surefoot.record.series."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {dotted(path): path for path in MODULES}


def room(module: str) -> str:
    """surefoot.record.series -> record; surefoot -> __init__."""
    return module.split(".")[1] if "." in module else "__init__"


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(node: ast.AST, importer: Path) -> Iterator[str]:
    """The modules that one import statement names, by their dotted names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = dotted(importer).split(".")
            if importer.name != "__init__.py":
                package = package[:-1]
            kept = package[: len(package) - node.level + 1]
            base = ".".join([*kept, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            yield inner if inner in NAMES else base


def imports(path: Path) -> set[str]:
    """Every module of surefoot that a file imports anywhere, inside functions too."""
    found = {name for node in ast.walk(parsed(path)) for name in imported(node, path)}
    return {name for name in found if name in NAMES and name != dotted(path)}


def top_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements that run when the module is imported: not those inside functions."""
    queue: list[ast.AST] = list(tree.body)
    while queue:
        node = queue.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            queue += ast.iter_child_nodes(node)


def test_the_floors_know_every_room() -> None:
    unknown = {room(module) for module in NAMES} - FLOORS.keys()
    assert not unknown, f"give these rooms a floor in FLOORS (see CONTRIBUTING.md): {unknown}"


@pytest.mark.parametrize("path", MODULES, ids=MODULE_IDS)
def test_imports_go_downwards(path: Path) -> None:
    here = room(dotted(path))
    wrong = [
        name
        for name in sorted(imports(path))
        if room(name) != here
        and FLOORS[room(name)] >= FLOORS[here]
        and (here, room(name)) not in SIDEWAYS
    ]
    assert not wrong, f"{here} is on floor {FLOORS[here]} and may not import {wrong}"


def test_there_is_no_import_cycle() -> None:
    graph = {dotted(path): imports(path) for path in MODULES}
    # A package whose __init__ gathers its modules is imported by them only by name.
    for module, targets in graph.items():
        graph[module] = {t for t in targets if not module.startswith(f"{t}.")}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", MODULES, ids=MODULE_IDS)
def test_core_imports_nothing_heavy(path: Path) -> None:
    found = {
        name.partition(".")[0] for node in top_level(parsed(path)) for name in imported(node, path)
    }
    assert not found & FORBIDDEN


def source_files() -> list[Path]:
    kinds = (".py", ".c", ".js", ".css", ".j2", ".html")
    return sorted(path for path in SOURCE.rglob("*") if path.suffix in kinds)


def test_no_file_is_longer_than_one_sitting() -> None:
    long = {
        str(path.relative_to(SOURCE)): lines
        for path in source_files()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES
    }
    assert not long, f"more than {MAX_FILE_LINES} lines: {long}"


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{path.relative_to(SOURCE)}:{node.name}": lines
        for path in MODULES
        for node in ast.walk(parsed(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert not long, f"more than {MAX_FUNCTION_LINES} lines: {long}"


def test_every_module_says_what_it_is_for() -> None:
    mute = [
        str(path.relative_to(SOURCE))
        for path in MODULES
        if not ast.get_docstring(parsed(path))
        and not (path.name.startswith("_") and path.name not in ("__init__.py", "__main__.py"))
    ]
    assert not mute, f"without a docstring: {mute}"


def test_public_names_are_frozen() -> None:
    """Widening the surface is a deliberate change of this list."""
    import surefoot

    assert set(surefoot.__all__) == PUBLIC
    missing = [name for name in PUBLIC if not hasattr(surefoot, name)]
    assert not missing
    mute = [name for name in PUBLIC - {"__version__"} if not getattr(surefoot, name).__doc__]
    assert not mute, f"public and undocumented: {mute}"


def words_of(parameter: click.Parameter) -> list[str]:
    """What a user types for a parameter: an option's spellings, an argument's name."""
    return parameter.opts if isinstance(parameter, click.Option) else [str(parameter.name)]


def test_commands_and_options_are_frozen() -> None:
    from surefoot.cli import cli

    surface = {
        name: {word for parameter in command.params for word in words_of(parameter)}
        for name, command in cli.commands.items()
    }
    assert surface == COMMANDS


def test_torch_is_asked_for_but_never_pinned() -> None:
    """A pin would make pip replace the user's own build of torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    torch = [d for d in project["project"]["dependencies"] if d.startswith("torch")]
    assert torch == ["torch>=2.6"]
    assert not [r for r in project["build-system"]["requires"] if "torch" in r]
