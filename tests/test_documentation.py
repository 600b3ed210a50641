"""What the documents say is so: examples in docstrings run, commands and options exist."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "surefoot"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MODULES = sorted(
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    for path in SOURCE.rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name: str, workdir: Path) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_dev_command_exists(path: Path) -> None:
    known = set(re.findall(r"^cmd_(\w+)\(\)", (ROOT / "dev").read_text(), re.MULTILINE))
    named = set(re.findall(r"\./dev (\w+)", path.read_text(encoding="utf-8")))
    assert known >= {"demo", "test", "lint", "types"}
    assert named <= known


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_surefoot_command_and_option_exists(path: Path) -> None:
    from surefoot.cli import cli

    text = path.read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"```\n(.*?)```", text, re.DOTALL))
    commands = set(re.findall(r"^surefoot (\w+)", blocks, re.MULTILINE))
    assert commands <= cli.commands.keys()
    spellings = {
        word for command in cli.commands.values() for p in command.params for word in p.opts
    }
    options = set(re.findall(r"`(--[a-z-]+)", text)) - {"--epochs"}
    assert options <= spellings


def test_links_between_documents_lead_somewhere() -> None:
    generated = {"rules/index.md", "quantities.md", "remedies.md"}
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+\.md)", path.read_text(encoding="utf-8")):
            assert target in generated or (path.parent / target).is_file(), f"{path.name}: {target}"


def test_the_sample_report_is_a_report() -> None:
    from surefoot import Report

    text = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    sample = json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0])
    assert Report.from_json(sample).to_json() == sample


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What writes the pages that come from the code."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    made = importlib.import_module("docs_pages")
    sys.modules.pop("docs_pages")
    return made


def test_every_rule_and_quantity_has_its_page(pages: Any) -> None:
    from surefoot.diagnosis import RULES
    from surefoot.signals import QUANTITIES

    for key, rule in RULES.items():
        page = pages.rule_page(rule)
        assert page.startswith(f"# {key}: ")
        assert inspect.cleandoc(rule.page) in page
        assert f"[{key}]({key}.md)" in pages.rules_index(RULES)
    headings = re.findall(r"^## (\w+)$", pages.quantities_page(QUANTITIES), re.MULTILINE)
    assert headings == list(QUANTITIES)


def test_every_remedy_has_its_section(pages: Any) -> None:
    from surefoot.findings import Cause
    from surefoot.remedies import TREATMENTS

    page = pages.remedies_page(TREATMENTS)
    sections = re.findall(r"^## (\S+) \{ #(\S+) \}$", page, re.MULTILINE)
    assert [name for name, _ in sections] == list(TREATMENTS)
    anchors = [anchor for _, anchor in sections]
    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) == set(anchors)
    for name, kind in TREATMENTS.items():
        section = page.partition(f"## {name} {{")[2].partition("\n## ")[0]
        assert f"```python\n{kind().code()}\n```" in section
        assert section.count("**Does not help**") == len(kind.limits)
        assert kind.formula in section
        assert all(f"`{key}` = `{value!r}`" in section for key, value in kind.defaults.items())
    causes = page.partition("## From a cause to remedies")[2].partition("\n## ")[0]
    assert all(f"\n| {str(cause).replace('_', ' ')} | [" in causes for cause in Cause)


def test_the_table_of_remedies_keeps_its_columns(pages: Any) -> None:
    """No cell of it ends early, and none of its marks is taken for another."""
    from surefoot.remedies import TREATMENTS

    rows = [r for r in pages.remedies_page(TREATMENTS).splitlines() if r.startswith("| ")]
    assert len(rows) > len(TREATMENTS)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert pages.prose("a_b < *c* [d] `e_f < g`") == r"a\_b &lt; \*c\* \[d\] `e_f < g`"
