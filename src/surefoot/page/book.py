"""The pages of rules and remedies: from Markdown to HTML, with links between them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from surefoot.diagnosis import RULES
from surefoot.diagnosis.rule import Rule
from surefoot.findings import Finding, Report
from surefoot.record import RecordError, RunSummary
from surefoot.record.conform import clean, valid
from surefoot.record.folder import REPORT, read_report
from surefoot.remedies import TREATMENTS

# The first digit of a rule's number tells what it is about.
CHAPTERS = {
    "SF1": ("The way through the layers", "What depth, weights and activations do to a gradient."),
    "SF2": ("Numbers", "Values that the number format cannot hold, and the data behind them."),
    "SF3": ("Size of the steps", "Learning rate, scales, and what the optimizer makes of them."),
    "SF4": ("Wiring", "Parts of a training that are not connected as they should be."),
    "SF5": ("The guard", "What only a guard saw, because it prevented the rest."),
}
_SHOWN = 20  # runs in which a rule was broken
_LOOKED = 200  # newest runs that are looked at for them
_BYTES = 16 << 20  # of their reports together
_FOLDED = "**Thresholds.**"
_RULE = re.compile(r"\bSF\d{3}\b")
_REMEDY = re.compile(r"\b[a-z_]+\.[a-z_0-9]+\b")


@dataclass(frozen=True, slots=True)
class Sighting:
    """A run with a finding of a rule. number: of the finding on the run's page, from 1."""

    run: RunSummary
    number: int
    finding: Finding


def chapters() -> list[tuple[str, str, list[Rule]]]:
    """Title, introduction and rules of each chapter, by number."""
    found: dict[str, list[Rule]] = {}
    for name in sorted(RULES):
        found.setdefault(name[:3], []).append(RULES[name])
    return [(*CHAPTERS[key], rules) for key, rules in found.items()]


def first_line(rule: Rule) -> str:
    """What the rule finds, in a sentence."""
    return " ".join(rule.page.strip().partition("\n\n")[0].split())


@cache
def rendered(text: str, own: str) -> Markup:
    """A page in HTML: headings one level down, links to the other rules and to the remedies.

    own: the name of the page itself, which is no link.

    >>> rendered("# See SF102", "SF101")
    Markup('<h2>See <a href="/rule/SF102">SF102</a></h2>\\n')
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = list(_folded(parser.parse(text)))
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 1, 6)}"
        if token.children:
            token.children = list(_linked(token.children, own))
    return Markup(parser.renderer.render(tokens, parser.options, {}))


@cache
def inline(text: str) -> Markup:
    """A sentence with its code and its links, without a paragraph around it.

    >>> inline("at most `max_norm`: see init.lsuv")
    Markup('at most <code>max_norm</code>: see <a href="/remedy/init.lsuv">init.lsuv</a>')
    """
    parser = MarkdownIt("commonmark", {"html": False}).disable("emphasis")
    (token,) = parser.parseInline(text) or [Token("inline", "", 0, children=[])]
    token.children = list(_linked(token.children or [], ""))
    return Markup(parser.renderer.render([token], parser.options, {}))


def sightings(runs: Sequence[RunSummary], rule: str) -> list[Sighting]:
    """The newest runs with a finding of a rule, of those that have ended with a report."""
    found: list[Sighting] = []
    left = _BYTES
    for run in runs[:_LOOKED]:
        try:
            left -= (run.path / REPORT).stat().st_size
            report = None if run.problem or left < 0 else _report(run)
        except (RecordError, OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # its line in the list of runs says so
        for number, finding in enumerate(report.findings if report else (), 1):
            if finding.rule == rule:
                found.append(Sighting(run, number, finding))
                break
        if left < 0 or len(found) == _SHOWN:
            break
    return found


def _report(run: RunSummary) -> Report | None:
    """What run.json says, as text that can be shown."""
    held = read_report(run.path)
    if held is None:
        return None
    return valid(Report.from_json(clean(json.loads(held.dumps()))), Report)


def _folded(tokens: Sequence[Token]) -> Iterator[Token]:
    """The same tokens, with the paragraph of thresholds folded: it is for those who check them."""
    folded = False
    for token, content in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "paragraph_open" and content and content.content.startswith(_FOLDED):
            folded = True
            yield _raw("<details><summary>Thresholds, and where they come from</summary>")
            (content,) = MarkdownIt("commonmark").parseInline(content.content[len(_FOLDED) :])
            yield token
            yield content
        elif folded and token.type == "inline":
            continue  # given above
        else:
            yield token
        if folded and token.type == "paragraph_close":
            folded = False
            yield _raw("</details>\n")


def _raw(text: str) -> Token:
    return Token("html_block", "", 0, content=text)


def _linked(tokens: Sequence[Token], own: str) -> Iterator[Token]:
    """The same inline tokens, with links around names of rules and remedies."""
    inside = 0  # a link
    for token in tokens:
        inside += token.nesting if token.type in ("link_open", "link_close") else 0
        if inside or token.type not in ("text", "code_inline"):
            yield token
            continue
        pattern = re.compile(f"{_RULE.pattern}|{_REMEDY.pattern}")
        at = 0
        for match in pattern.finditer(token.content):
            address = _address(match.group(), own)
            if address is None:
                continue
            yield _piece(token, token.content[at : match.start()])
            yield Token("link_open", "a", 1, attrs={"href": address})
            yield _piece(token, match.group())
            yield Token("link_close", "a", -1)
            at = match.end()
        yield _piece(token, token.content[at:])


def _piece(token: Token, content: str) -> Token:
    """A part of a token, which is text where nothing is left of it."""
    kind = token.type if content else "text"
    tag = token.tag if content else ""
    return Token(kind, tag, 0, content=content, markup=token.markup)


def _address(name: str, own: str) -> str | None:
    if name != own and name in RULES:
        return f"/rule/{name}"
    return f"/remedy/{name}" if name in TREATMENTS else None
