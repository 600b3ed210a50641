"""Write the pages that come from the code: one for each rule, one for all quantities, and one for
all remedies.

`./dev docs` runs this before the site is built. A rule's page is the docstring of its file, and a
remedy's section is made of its class; nothing about either is said twice.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"


def rule_page(rule: Any) -> str:
    """One rule's page: title, what its file says of it, how to mute it."""
    text = inspect.cleandoc(rule.page or "")
    if not text:
        raise SystemExit(
            f"rule {rule.id}: expected a docstring in its file, for its page; got none"
        )
    return (
        f"# {rule.id}: {rule.title}\n\n{text}\n\n## Mute it\n\n"
        f"```\nsurefoot run --ignore {rule.id} train.py\n```\n"
    )


def rules_index(rules: Mapping[str, Any]) -> str:
    """The table of all rules."""
    rows = [f"| [{key}]({key}.md) | {cell(rule.title)} |" for key, rule in sorted(rules.items())]
    head = "# Rules\n\nOne for each thing that surefoot can find.\n\n| rule | finds |\n|---|---|\n"
    return head + "\n".join(rows) + "\n"


def quantities_page(quantities: Mapping[str, Any]) -> str:
    """All quantities: what, unit, when and at what cost, after whom."""
    parts = [
        "# Quantities\n\nWhat is measured. Each is kept in the run folder under its name, a row of "
        "float32 numbers a step.\n"
    ]
    for name, q in quantities.items():
        parts.append(
            f"## {name}\n\n- **One column** for each {q.axis} and each of: "
            f"{', '.join(q.statistics)}\n- **Formula**: {q.formula}\n- **Unit**: {q.unit}\n"
            f"- **Cost**: {q.cost}\n- **Source**: {q.source}\n"
        )
    return "\n".join(parts)


def remedies_page(treatments: Mapping[str, Any]) -> str:
    """All remedies: a table, a section for each, and which are tried for which cause."""
    head = (
        "# Remedies\n\nWhat surefoot can try. A remedy is proposed until paired trials have shown "
        "what it does here: [Prove a remedy](prove.md).\n\n```\n"
        "surefoot prove project.train:build --remedy init.kaiming_normal\n"
        "surefoot explain init.kaiming_normal\n```\n\n"
        "The third column is the first of the limits; all of them are in the remedy's section.\n\n"
        "| remedy | what it does | does not help |\n|---|---|---|\n"
    )
    rows = [
        f"| {link(name)} | {cell(prose(kind.why))} | {cell(prose(kind.limits[0]))} |\n"
        for name, kind in treatments.items()
    ]
    sections = [remedy_section(kind) for kind in treatments.values()]
    return "\n".join([head + "".join(rows), causes_section(), *sections])


def remedy_section(kind: Any) -> str:
    """One remedy: what it guarantees, its formula, limits, cost, conflicts and code."""
    own = inspect.cleandoc(vars(kind).get("__doc__") or "")
    lines = [f"- **Guarantee**: {prose(kind.guarantee)}"]
    lines += [f"- **Formula**: `{kind.formula}`"] if kind.formula else []
    lines += [f"- **Does not help**: {prose(limit)}" for limit in kind.limits]
    lines += [f"- **Not with** {link_or_group(n)}: {prose(w)}" for n, w in kind.conflicts.items()]
    lines += [f"- **Cost**: {prose(kind.cost)}"]
    lines += [f"- **Parameters**: {parameters(kind.defaults)}"] if kind.defaults else []
    lines += [f"- **Source**: {prose(kind.source)}"]
    about = f"{prose(own)}\n\n" if own else ""
    return (
        f"## {kind.name} {{ #{anchor(kind.name)} }}\n\n{sentence(kind.why)}\n\n{about}"
        + "\n".join(lines)
        + f"\n\n```python\n{kind().code()}\n```\n"
    )


def causes_section() -> str:
    """The decision table: what is tried for a cause, and what is not."""
    from surefoot.findings import Cause, Finding, Pathology, Severity
    from surefoot.remedies.decision import candidates, unhelpful

    head = (
        "## From a cause to remedies\n\nThe rule that finds a fault prescribes first, as it knows "
        "the layer and the numbers; then comes what this table has, up to six in all.\n\n"
        "| cause | tried in this order | not tried, and why |\n|---|---|---|\n"
    )
    rows = []
    for cause in Cause:
        finding = Finding("", Pathology.SPIKE, cause, Severity.HARMFUL, "")
        tried = joined(link(r.remedy) for r in candidates(finding))
        no = "; ".join(f"{link(name)} {cell(prose(why))}" for name, why in unhelpful(finding))
        rows.append(f"| {str(cause).replace('_', ' ')} | {tried} | {no} |\n")
    return head + "".join(rows)


def joined(parts: Iterable[str]) -> str:
    """Parts with commas, each once."""
    return ", ".join(dict.fromkeys(parts))


def parameters(defaults: Mapping[str, Any]) -> str:
    """Parameters with their defaults."""
    return ", ".join(f"`{name}` = `{value!r}`" for name, value in defaults.items())


def anchor(name: str) -> str:
    """What a remedy's section is called in a link."""
    return name.replace(".", "-")


def link(name: str) -> str:
    """A remedy's name, which leads to its section."""
    return f"[{name}](#{anchor(name)})"


def link_or_group(name: str) -> str:
    """A name that leads to its section, or a group of them."""
    return link(name) if "." in name else f"{name}.\\*"


def sentence(words: str) -> str:
    """A clause as a sentence."""
    return f"{prose(words[:1].upper() + words[1:])}."


def prose(text: str) -> str:
    """Plain text in which Markdown finds no marks but those of code."""
    parts = re.split(r"(`[^`]+`)", text)
    plain = [re.sub(r"([*_\[\]])", r"\\\1", part.replace("<", "&lt;")) for part in parts[::2]]
    parts[::2] = plain
    return "".join(parts)


def cell(text: Any) -> str:
    """Text that cannot end the cell or the table it stands in."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def main() -> None:
    """Write docs/rules/, docs/quantities.md and docs/remedies.md anew."""
    from surefoot.diagnosis import RULES
    from surefoot.remedies import TREATMENTS
    from surefoot.signals import QUANTITIES

    folder = DOCS / "rules"
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("*.md"):
        stale.unlink()
    (folder / "index.md").write_text(rules_index(RULES), encoding="utf-8")
    for key, rule in RULES.items():
        (folder / f"{key}.md").write_text(rule_page(rule), encoding="utf-8")
    (DOCS / "quantities.md").write_text(quantities_page(QUANTITIES), encoding="utf-8")
    (DOCS / "remedies.md").write_text(remedies_page(TREATMENTS), encoding="utf-8")
    print(f"{len(RULES)} rule pages, {len(QUANTITIES)} quantities, {len(TREATMENTS)} remedies")


if __name__ == "__main__":
    main()
