"""The documents as blocks of code, and what can be said of a block without and by running it.

Every fenced block of every page falls under one of these, by its language:

- `python` runs, after those above it on its page, in a reader's own training (see `reader`). With
  `title="NAME"` it is a file of that name instead, which the blocks below can import.
- none: command lines. Each has to be one that this project, pip or the shell can answer.
- `text` is output, and above it stands where it comes from.
- `json`, `yaml`, `toml` and `diff` have to be that.

A comment directly above a block says what is otherwise: `<!-- not run: WHY -->`, and for output
`<!-- output of: COMMAND -->` or `<!-- output, not compared: WHY -->`.
"""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
_FENCE = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*?) -->\n\n?)?"
    r"```(?P<language>\w*)(?P<info>[^\n]*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_FREE = {"cd", "git", "patch", "torchrun"}  # answered by what everyone has
_BOX = str.maketrans(dict.fromkeys("╭╮╰╯│─"))


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: page, line of its fence, language, the rest of that line, code, comment."""

    page: str
    line: int
    language: str
    info: str
    code: str
    note: str

    @property
    def file(self) -> str:
        """The name of the file that it is; empty if it is none."""
        found = re.search(r'title="([^"]+)"', self.info)
        return found[1] if found else ""

    @property
    def unrun(self) -> str:
        """Why it is not run; empty if it is."""
        return self.note.removeprefix("not run: ") if self.note.startswith("not run: ") else ""

    @property
    def where(self) -> str:
        """Page and line, for a message."""
        return f"{self.page}:{self.line}"


def blocks(page: str, text: str) -> list[Block]:
    """Every fenced block of a page, in order.

    >>> [b.code for b in blocks("a.md", "```python\\nx = 1\\n```\\n")]
    ['x = 1\\n']
    """
    return [
        Block(
            page,
            text.count("\n", 0, match.start("language")) + 1,
            match["language"],
            match["info"],
            match["code"],
            match["note"] or "",
        )
        for match in _FENCE.finditer(text)
    ]


@cache
def documents() -> dict[str, str]:
    """Every page that is written by hand, by its path below the repository."""
    return {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in DOCUMENTS}


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of a block; a remark stands behind two blanks or a `#`."""
    for line in block.code.replace("\\\n", " ").splitlines():
        plain = re.split(r"\s{2,}(?=\S)", line.strip())[0] if "\\" not in line else line
        if words := shlex.split(plain, comments=True):
            yield words


def check(block: Block) -> None:
    """Raise AssertionError if a block is not what its language says."""
    if block.language == "python":
        ast.parse(block.code)
    elif block.language == "json":
        import json

        json.loads(block.code)
    elif block.language == "toml":
        tomllib.loads(block.code)
    elif block.language == "yaml":
        for line in re.findall(r"run: (surefoot .*)", block.code):
            check_command(shlex.split(line))
    elif block.language == "diff":
        assert re.search(r"^@@ .* @@", block.code, re.MULTILINE), f"{block.where}: no diff"
    elif block.language == "text":
        assert block.note.startswith("output"), f"{block.where}: say what it is the output of"
    else:
        assert block.language == "", f"{block.where}: unknown language {block.language!r}"
        for words in commands(block):
            check_command(words)


def check_command(words: list[str]) -> None:
    """Raise if nothing answers a command or it has no such option, extra or file."""
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    program, rest = words[0].rpartition("/")[2], words[1:]
    if "surefoot" in words:  # behind torchrun, ssh or python -m as well
        return _surefoot(words[words.index("surefoot") + 1 :])
    if program == "dev":
        return _dev(rest)
    if program == "pip":
        return _pip(rest)
    if program == "python":
        path = rest[1].replace(".", "/") if rest[0] == "-m" else rest[0]
        known = [ROOT / path, ROOT / f"{path}.py", ROOT / path / "__main__.py"]
        assert any(p.is_file() for p in known) or "/" not in path, f"no such program: {path}"
        return None
    assert program in _FREE, f"nothing is known of the command {program!r}"
    return None


def _surefoot(words: list[str]) -> None:
    """Parsed as click does, without anything being run."""
    from surefoot.cli import cli

    name, *rest = words
    command = cli.get_command(click.Context(cli), name)
    assert command is not None, f"there is no surefoot {name}"
    context = click.Context(command, info_name=name, **command.context_settings)
    values, left, _ = command.make_parser(context).parse_args(rest)
    for parameter in command.params:
        value = values.get(parameter.name or "")
        if isinstance(parameter.type, click.Choice) and isinstance(value, str):
            parameter.type.convert(value, parameter, context)
    if name == "explain" and values["name"].isascii() and values["name"] != "NAME":
        from surefoot.diagnosis import RULES
        from surefoot.remedies import TREATMENTS

        assert values["name"] in {*RULES, *TREATMENTS}, f"nothing is called {values['name']}"
    assert not left, f"surefoot {name} takes no {left}"


def _dev(words: list[str]) -> None:
    known = set(re.findall(r"^cmd_(\w+)\(\)", (ROOT / "dev").read_text(), re.MULTILINE))
    assert not words or words[0] in known or not words[0].isidentifier(), f"no ./dev {words[0]}"
    if words[:1] == ["bench"] and len(words) > 1:
        assert (ROOT / "benchmarks" / f"{words[1]}.py").is_file(), f"no benchmark {words[1]}"


def _pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words:
        for extra in re.findall(r"^surefoot\[([\w,]+)\]$", word):
            assert set(extra.split(",")) <= project["optional-dependencies"].keys(), word
        if word.endswith(".txt"):
            assert (ROOT / word).is_file(), word


def reader() -> dict[str, Any]:
    """What the examples take for granted: the reader's own training, small and sound."""
    import torch
    from torch import nn

    import surefoot

    torch.manual_seed(0)

    class Net(nn.Sequential):
        def __init__(self) -> None:
            layers = [nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)]
            super().__init__(*layers)

    inputs = torch.randn(256, 8)
    targets = inputs[:, :4].argmax(1)
    train_loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(inputs, targets), batch_size=64, shuffle=True
    )
    model, loss_fn = Net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def build() -> tuple[Any, ...]:
        new = Net()
        return new, train_loader, loss_fn, torch.optim.AdamW(new.parameters(), lr=0.01)

    def train(epochs: int = 8) -> None:
        for _ in range(epochs):
            for x, y in train_loader:
                optimizer.zero_grad()
                loss_fn(model(x), y).backward()
                optimizer.step()

    known = dict(torch=torch, nn=nn, surefoot=surefoot, Net=Net, model=model, loss_fn=loss_fn)
    known |= dict(optimizer=optimizer, inputs=inputs, targets=targets, batch=(inputs, targets))
    return known | dict(train_loader=train_loader, build=build, train=train, __name__="reader")


def told(output: str) -> str:
    """What an output says: without frames, breaks of lines and the values of numbers.

    >>> told("│ loss 2.31 (x0.05) │") == told("loss 0.1   (x1e-3)")
    True
    """
    plain = " ".join(output.translate(_BOX).split())
    return re.sub(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", "#", plain)


def assert_told(block: Block, output: str) -> None:
    """That an output says what a block shows of it; `...` alone in a line leaves something out."""
    said = told(output)
    for part in re.split(r"^\s*\.\.\.\s*$", block.code, flags=re.MULTILINE):
        wanted = told(part)
        assert wanted in said, f"{block.where}: expected\n{wanted}\ngot\n{said}"
        said = said.partition(wanted)[2]
