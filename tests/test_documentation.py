"""What the documents say is so: every block of code runs or is checked, every link leads somewhere,
and every rule, remedy and quantity has its page.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from documents_fixture import (
    ROOT,
    Block,
    assert_told,
    blocks,
    check,
    check_command,
    documents,
    reader,
    told,
)

SOURCE = ROOT / "src" / "surefoot"
MODULES = sorted(
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    for path in SOURCE.rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)
# Pages whose blocks of Python a test of its own runs: it knows what a block needs besides.
ELSEWHERE = {"docs/integrations.md"}
PYTHON = {
    page: [block for block in blocks(page, text) if block.language == "python"]
    for page, text in documents().items()
    if page not in ELSEWHERE
}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """What writes the pages that come from the code."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module("docs_pages")
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.fixture(scope="module")
def generated(tool: ModuleType) -> dict[str, str]:
    """Those pages, by their path below the repository."""
    return {f"docs/{path}": text for path, text in tool.pages().items()}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name: str, workdir: Path) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("page", documents())
def test_every_block_is_what_it_says(page: str) -> None:
    text = documents()[page]
    found = blocks(page, text)
    assert len(found) * 2 == len(re.findall(r"^\s*```", text, re.MULTILINE))
    for block in found:
        check(block)
        assert not block.note or re.match(
            r"(not run|output of|output, not compared): .", block.note
        )


def test_every_block_that_is_generated_is_what_it_says(generated: dict[str, str]) -> None:
    found = [block for page, text in generated.items() for block in blocks(page, text)]
    for block in found:
        check(block)
    assert len(found) > 140


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", [page for page, found in PYTHON.items() if found])
def test_every_block_of_python_runs(
    page: str, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(workdir))
    space = reader()
    before = set(sys.modules)
    for block in PYTHON[page]:
        if block.file:
            (workdir / block.file).write_text(block.code, encoding="utf-8")
        elif not block.unrun:
            code = "\n" * block.line + block.code  # so that an error tells its line
            exec(compile(code, page, "exec"), space)
    for name in set(sys.modules) - before:  # files of the page are not those of another one
        if str(workdir) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    for thing in ("watch", "guard", "applied"):
        _ended(space.get(thing))


def _ended(thing: Any) -> None:
    """Ends what an example leaves in place for the reader's own loop."""
    for name in ("stop", "remove", "undo"):
        if hasattr(thing, name):
            getattr(thing, name)()


def test_what_is_not_run_is_little_and_says_why() -> None:
    found = [b for page in documents() for b in blocks(page, documents()[page])]
    unrun = [block for block in found if block.unrun]
    assert len(unrun) <= 6
    assert all(len(block.unrun.split()) >= 4 for block in unrun)


def test_the_page_of_integrations_is_run_as_a_whole() -> None:
    from test_integrations_page import examples

    (page,) = ELSEWHERE
    known = [b for b in blocks(page, documents()[page]) if b.language == "python"]
    assert [block.code for block in known[1:]] == [param.values[1] for param in examples()]


@pytest.mark.parametrize(
    "words",
    [
        "surefoot walk",
        "surefoot run --fast train.py",
        "surefoot run --fail-on bad train.py",
        "surefoot explain SF999",
        "surefoot report runs/NAME and more",
        "./dev nothing",
        "./dev bench nothing",
        "pip install surefoot[nothing]",
        "rm -rf /",
    ],
)
def test_a_command_that_does_not_exist_is_found_out(words: str) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        check_command(words.split())


def test_a_block_without_a_source_or_with_an_unknown_language_is_found_out() -> None:
    for text in ("```text\nit works\n```\n", "```ruby\nputs 1\n```\n", "```python\nx =\n```\n"):
        with pytest.raises((AssertionError, SyntaxError)):
            check(blocks("a.md", text)[0])
    noted = blocks("a.md", "<!-- output of: surefoot watch -->\n```text\nit works\n```\n")[0]
    check(noted)
    assert noted.note == "output of: surefoot watch"


def test_an_output_that_was_not_told_is_found_out() -> None:
    (block,) = blocks("a.md", "```text\n│ loss 2.3 │\n...\n│ healthy │\n```\n")
    assert told("│ 1.5 of\n2e-3 │") == "# of #"
    assert_told(block, "loss\n0.1 and more, healthy")
    for other in ("loss 0.1, unstable", "healthy, loss 0.1", "accuracy 0.1, healthy"):
        with pytest.raises(AssertionError):
            assert_told(block, other)


@pytest.mark.parametrize("page", documents())
def test_options_and_commands_within_sentences_exist(page: str) -> None:
    from surefoot.cli import cli

    text = re.sub(r"^```.*?^```$", "", documents()[page], flags=re.DOTALL | re.MULTILINE)
    spellings = {
        word for command in cli.commands.values() for p in command.params for word in p.opts
    }
    corpus = {"--epochs", "--markdown", "--part", "--seeds", "--seconds", "--pairs", "--picture"}
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= spellings | corpus
    assert set(re.findall(r"`surefoot (\w+)", text)) <= cli.commands.keys()
    for words in re.findall(r"\./dev \w+(?: [a-z_]+)?", text):
        check_command(words.split()[:2])


def test_links_between_documents_lead_somewhere(generated: dict[str, str]) -> None:
    every = documents() | generated
    for page, text in every.items():
        plain = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)", plain):
            path = (ROOT / page).parent / target if target else ROOT / page
            known = str(path.resolve().relative_to(ROOT))
            assert known in every or path.is_file(), f"{page}: {target}"
            assert not anchor or anchor in _anchors(every[known]), f"{page}: {target}#{anchor}"


def _anchors(text: str) -> set[str]:
    """What can be linked to on a page: its headings, and what is named with `{ #... }`."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"[ -]+", "-", heading) for heading in plain} | set(
        re.findall(r"\{ #(\S+) \}", text)
    )


def test_every_page_is_in_the_navigation() -> None:
    import tomllib

    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    listed = re.findall(r"'([\w/]+\.md)'", str(site["nav"]))
    own = {page.removeprefix("docs/") for page in documents() if page.startswith("docs/")}
    assert own | {f"{name}/index.md" for name in ("rules", "remedies", "quantities")} == set(listed)
    assert len(set(listed)) == len(listed)


def test_the_sample_report_is_a_report() -> None:
    from surefoot import Report

    text = documents()["docs/report.md"]
    sample = json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0])
    assert Report.from_json(sample).to_json() == sample


def test_every_rule_has_its_page(tool: ModuleType, generated: dict[str, str]) -> None:
    from surefoot.diagnosis import RULES
    from surefoot.findings import Cause

    named = set()
    for key, rule in RULES.items():
        page = generated[f"docs/rules/{key}.md"]
        assert page.startswith(f"# {key}: ")
        assert inspect.cleandoc(rule.page) in page
        assert f"[{key}]({key}.md)" in generated["docs/rules/index.md"]
        causes = tool.named_causes(rule)
        assert causes
        assert all(f"\n| {str(cause).replace('_', ' ')} | [" in page for cause in causes)
        named |= set(causes)
    assert named == set(Cause)
    unet = tool.quantities_read(RULES["SF205"])
    assert {"gradient", "unmoved"} <= set(unet) and "input" not in unet


def test_a_rule_names_no_cause_that_its_page_does_not_know(tool: ModuleType) -> None:
    """What the reading of a file says of its causes, against what its rule has really found."""
    from surefoot.diagnosis import RULES
    from surefoot.findings import Cause

    assert tool.named_causes(RULES["SF101"]) == (
        Cause.WEIGHTS_TOO_SMALL,
        Cause.SATURATING_ACTIVATION,
    )
    assert tool.named_causes(RULES["SF202"]) == (Cause.BAD_BATCH,)


def test_every_quantity_has_its_page(tool: ModuleType, generated: dict[str, str]) -> None:
    from surefoot.signals import QUANTITIES

    for name, q in QUANTITIES.items():
        page = generated[f"docs/quantities/{name}.md"]
        assert page.startswith(f"# {name}\n\n{inspect.cleandoc(tool.quantity_module(q).__doc__)}")
        assert all(f"`{statistic}`" in page for statistic in q.statistics)
        for words in (q.formula, q.unit, q.cost, q.source):
            assert tool.prose(words) in page
        assert f"]({name}.md){{ #{name} }}" in generated["docs/quantities/index.md"]
    assert "[SF205](../rules/SF205.md)" in generated["docs/quantities/unmoved.md"]


def test_every_remedy_has_its_page(tool: ModuleType, generated: dict[str, str]) -> None:
    from surefoot.findings import Cause
    from surefoot.remedies import TREATMENTS

    index = generated["docs/remedies/index.md"]
    for name, kind in TREATMENTS.items():
        page = generated[f"docs/remedies/{name}.md"]
        assert f"```python\n{kind().code()}\n```" in page
        assert page.count("**Does not help**") == len(kind.limits)
        assert kind.formula in page
        assert all(f"`{key}` = `{value!r}`" in page for key, value in kind.defaults.items())
        assert f"]({name}.md){{ #{name.replace('.', '-')} }}" in index
    causes = index.partition("## From a cause to remedies")[2]
    assert all(f"\n| {str(cause).replace('_', ' ')} | [" in causes for cause in Cause)
    page = generated["docs/remedies/clipping.norm.md"]
    assert "- **Tried for** bad batch ([SF201](../rules/SF201.md), [SF202]" in page
    assert "- **Not tried for** weights too small ([SF101]" in page


def test_tables_keep_their_columns(tool: ModuleType, generated: dict[str, str]) -> None:
    """No cell of theirs ends early, and none of their marks is taken for another."""
    for page, text in generated.items():
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            bars = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
            assert len(bars) == 1, page
    assert tool.prose("a_b < *c* [d] `e_f < g`") == r"a\_b &lt; \*c\* \[d\] `e_f < g`"


def test_blocks_know_their_place() -> None:
    text = '# A\n\n<!-- not run: it needs a GPU here -->\n```python title="a.py"\nx = 1\n```\n'
    assert blocks("a.md", text) == [
        Block("a.md", 4, "python", ' title="a.py"', "x = 1\n", "not run: it needs a GPU here")
    ]
    assert blocks("a.md", text)[0].file == "a.py"
