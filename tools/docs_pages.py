"""Write the pages that come from the code: one for each rule, and one for all quantities.

`./dev docs` runs this before the site is built. A rule's page is the docstring of its file; nothing
about a rule is said twice.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
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


def cell(text: Any) -> str:
    """Text that cannot end the cell or the table it stands in."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def main() -> None:
    """Write docs/rules/ and docs/quantities.md anew."""
    from surefoot.diagnosis import RULES
    from surefoot.signals import QUANTITIES

    folder = DOCS / "rules"
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("*.md"):
        stale.unlink()
    (folder / "index.md").write_text(rules_index(RULES), encoding="utf-8")
    for key, rule in RULES.items():
        (folder / f"{key}.md").write_text(rule_page(rule), encoding="utf-8")
    (DOCS / "quantities.md").write_text(quantities_page(QUANTITIES), encoding="utf-8")
    print(f"{len(RULES)} rule pages, {len(QUANTITIES)} quantities")


if __name__ == "__main__":
    main()
