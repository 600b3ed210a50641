"""Scripts that are run with their places noted, patched with patch or git, and run again."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from surefoot.findings import Remedy
from surefoot.trial.patch import Patch, patch
from surefoot.trial.source import Places, Sites

TRAINING = """
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    x, y = torch.randn(16, 4), torch.randint(0, 3, (16,))
    for step in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
"""


def remedy(name: str, target: str | None = None, code: str = "", **parameters: Any) -> Remedy:
    return Remedy(name, target, "", code, parameters)


def dedent(source: str) -> str:
    return textwrap.dedent(source).lstrip("\n")


def run(path: Path) -> dict[str, Any]:
    """The script's globals after it has run, its folder on sys.path, its siblings loaded anew."""
    siblings = {p.stem for p in path.parent.glob("*.py")}
    for name in siblings & sys.modules.keys():
        del sys.modules[name]
    sys.path.insert(0, str(path.parent))
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # the files change within the second that caches compare
    try:
        return runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.path.remove(str(path.parent))
        sys.dont_write_bytecode = before
        for name in siblings & sys.modules.keys():
            del sys.modules[name]


def noted(path: Path) -> tuple[Sites, dict[str, Any]]:
    """The places of a script's `model` (or of its `models`), as JSON has them; its globals."""
    with Places() as places:
        names = run(path)
    sites = places.sites(names.get("models") or [names["model"]])
    again = Sites.from_json(json.loads(json.dumps(sites.to_json())))
    assert again == sites
    return again, names


class Project:
    """A folder with a script `train.py`, and other files beside it."""

    def __init__(self, folder: Path, source: str | bytes = TRAINING, **others: str) -> None:
        self.folder = folder / "project"
        self.folder.mkdir()
        for name, text in others.items():
            (self.folder / f"{name}.py").write_text(dedent(text), encoding="utf-8")
        self.script = self.folder / "train.py"
        data = source if isinstance(source, bytes) else dedent(source).encode()
        self.script.write_bytes(data)

    def patch(self, prescribed: Remedy) -> Patch | None:
        sites, self.before = noted(self.script)
        return patch(prescribed, sites, self.folder)

    def mended(self, prescribed: Remedy, tool: str = "patch") -> dict[str, Any]:
        """The globals of the script after patching it by a tool and running it again."""
        made = self.patch(prescribed)
        assert made is not None
        before = {p.name: p.read_bytes() for p in self.folder.glob("*.py")}
        apply(made, self.folder, tool)
        changed = {n for n, data in before.items() if (self.folder / n).read_bytes() != data}
        assert changed == set(made.files)
        self.lines = changes(made.text)
        return run(self.script)


def apply(made: Patch, folder: Path, tool: str = "patch") -> None:
    file = folder.parent / "remedy.diff"
    made.write(file)
    command = ["patch", "-p1", "-s", "--binary", "-i", str(file)]
    if tool == "git":
        command = ["git", "apply", str(file)]
    # Outside of any repository: git apply would skip files of one that it is not told of.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def changes(text: str) -> list[str]:
    """The lines that a diff takes out and puts in."""
    rows = [row for row in text.split("\n") if row[:1] in "+-" and row[:3] not in ("+++", "---")]
    return [row.rstrip("\r") for row in rows if row]
