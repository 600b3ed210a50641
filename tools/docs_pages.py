"""Write the pages that come from the code: one a rule, remedy and quantity, and their lists.

`./dev docs` runs this before the site is built. A rule's page is the docstring of its file, a
remedy's is made of its class, a quantity's of its definition; nothing of them is said twice.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOLDERS = ("rules", "remedies", "quantities")  # all in them is generated
# What nearly every rule asks for; to name it at each of them would say nothing.
_ASKED_BY_ALL = {"case", "outcome", "rule", "prescriptions"}


def pages() -> dict[str, str]:
    """Every generated page by its path below docs/."""
    from surefoot.diagnosis import RULES
    from surefoot.remedies import TREATMENTS
    from surefoot.signals import QUANTITIES

    made = {
        "rules/index.md": rules_index(RULES),
        "remedies/index.md": remedies_index(TREATMENTS),
        "quantities/index.md": quantities_index(QUANTITIES),
    }
    made |= {f"rules/{key}.md": rule_page(rule) for key, rule in RULES.items()}
    made |= {f"remedies/{name}.md": remedy_page(kind) for name, kind in TREATMENTS.items()}
    made |= {f"quantities/{name}.md": quantity_page(q) for name, q in QUANTITIES.items()}
    return made


def rules_index(rules: Mapping[str, Any]) -> str:
    """The table of all rules."""
    rows = [
        f"| [{key}]({key}.md) | {cell(rule.title)} | "
        f"{joined(str(cause).replace('_', ' ') for cause in named_causes(rule))} |\n"
        for key, rule in sorted(rules.items())
    ]
    return (
        "# Rules\n\nOne for each thing that surefoot can find, and the causes that it can name.\n\n"
        "| rule | finds | causes |\n|---|---|---|\n" + "".join(rows)
    )


def rule_page(rule: Any) -> str:
    """One rule's page: what its file says of it, what is tried for its causes, how to mute it."""
    text = inspect.cleandoc(rule.page or "")
    if not text:
        raise SystemExit(
            f"rule {rule.id}: expected a docstring in its file, for its page; got none"
        )
    read = joined(to_page(name, "../quantities/") for name in quantities_read(rule))
    return (
        f"# {rule.id}: {rule.title}\n\n{text}\n\n"
        + causes_table(named_causes(rule), "../remedies/")
        + (f"\n## What it reads\n\nOf the record: {read}.\n" if read else "")
        + "\n## In the terminal, and muted\n\n```\n"
        f"surefoot explain {rule.id}\nsurefoot run --ignore {rule.id} train.py\n```\n\n"
        "[All rules](index.md)\n"
    )


def causes_table(causes: Iterable[Any], remedies: str) -> str:
    """What is tried for each cause beyond what the rule prescribes, and what is not."""
    from surefoot.remedies.decision import candidates, unhelpful

    rows = []
    for cause in causes:
        finding = finding_of(cause)
        tried = joined(to_page(r.remedy, remedies) for r in candidates(finding))
        no = "; ".join(
            f"{to_page(name, remedies)} {cell(prose(why))}" for name, why in unhelpful(finding)
        )
        rows.append(f"| {str(cause).replace('_', ' ')} | {tried} | {no} |\n")
    return (
        "## From a cause to remedies\n\nThe rule that finds a fault prescribes first, as it knows "
        "the layer and the numbers; then comes what this table has, up to six in all.\n\n"
        "| cause | tried in this order | not tried, and why |\n|---|---|---|\n" + "".join(rows)
    )


def remedies_index(treatments: Mapping[str, Any]) -> str:
    """All remedies in a table, and which are tried for which cause."""
    from surefoot.findings import Cause

    head = (
        "# Remedies\n\nWhat surefoot can try. A remedy is proposed until paired trials have shown "
        "what it does here: [Prove a remedy](../prove.md).\n\n```\n"
        "surefoot prove project.train:build --remedy init.kaiming_normal\n"
        "surefoot explain init.kaiming_normal\n```\n\n"
        "The third column is the first of the limits; the others are on the remedy's page.\n\n"
        "| remedy | what it does | does not help |\n|---|---|---|\n"
    )
    rows = [  # the anchors are those of the time when all of them were on one page
        f"| {to_page(name)}{{ #{name.replace('.', '-')} }} | {cell(prose(kind.why))} | "
        f"{cell(prose(kind.limits[0]))} |\n"
        for name, kind in treatments.items()
    ]
    return head + "".join(rows) + "\n" + causes_table(Cause, "")


def remedy_page(kind: Any) -> str:
    """One remedy: what it guarantees, its limits, for which causes it is tried, its code."""
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
        f"# {kind.name}\n\n{sentence(kind.why)}\n\n{about}" + "\n".join(lines) + "\n\n"
        f"## Code to paste\n\n```python\n{kind().code()}\n```\n\n"
        f"## When it is tried\n\n{remedy_causes(kind.name)}\n"
        "## Try it here\n\n```\n"
        f"surefoot prove project.train:build --remedy {kind.name}\n"
        f"surefoot explain {kind.name}\n```\n\n[All remedies](index.md)\n"
    )


def remedy_causes(name: str) -> str:
    """For which causes a remedy is tried or not, with the rules that name them."""
    from surefoot.findings import Cause
    from surefoot.remedies.decision import candidates, unhelpful

    lines, not_tried = [], []
    for cause in Cause:
        finding = finding_of(cause)
        order = list(dict.fromkeys(r.remedy for r in candidates(finding)))
        words = f"{str(cause).replace('_', ' ')} ({to_rules(cause)})"
        if name in order:
            place = f"{order.index(name) + 1} of {len(order)} in the table"
            lines.append(f"- **Tried for** {words}: {place}\n")
        reasons = [why for known, why in unhelpful(finding) if known == name]
        not_tried += [f"- **Not tried for** {words}: {prose(why)}\n" for why in reasons]
    return "".join(lines + not_tried) or (
        "In no row of the [table of causes](index.md#from-a-cause-to-remedies): it is tried where "
        "a rule prescribes it, or where you name it.\n"
    )


def quantities_index(quantities: Mapping[str, Any]) -> str:
    """The table of all quantities."""
    rows = [
        f"| {to_page(name)}{{ #{name} }} | {q.axis} | {cell(prose(q.cost))} |\n"
        for name, q in quantities.items()
    ]
    return (
        "# Quantities\n\nWhat is measured. Each is kept in the run folder under its name, a row of "
        "float32 numbers a step; `surefoot export` writes all of them into one "
        "[table](../integrations.md#data-frames).\n\n"
        "| quantity | a column for each | cost |\n|---|---|---|\n" + "".join(rows)
    )


def quantity_page(q: Any) -> str:
    """One quantity: what it is, its columns, formula, unit, cost, source, and who reads it."""
    from surefoot.diagnosis import RULES

    readers = [
        f"[{key}](../rules/{key}.md)"
        for key, rule in sorted(RULES.items())
        if q.name in quantities_read(rule)
    ]
    lines = [
        f"- **One column** for each {q.axis} and each of: {', '.join(map(code, q.statistics))}",
        f"- **Formula**: {prose(q.formula)}",
        f"- **Unit**: {prose(q.unit)}",
        f"- **Cost**: {prose(q.cost)}",
        f"- **Source**: {prose(q.source)}",
        f"- **Kept in memory**: {q.buckets} buckets of steps at most, each with its lowest, "
        "highest and last value; the record on disk has more",
    ]
    lines += [f"- **Read by** {joined(readers)}"] if readers else []
    return (
        f"# {q.name}\n\n{inspect.cleandoc(quantity_module(q).__doc__ or '')}\n\n"
        + "\n".join(lines)
        + "\n\n## In a data frame\n\n```\nsurefoot export runs/NAME -o run.csv\n```\n\n"
        f"Its rows are those with `{q.name}` in the column `quantity`.\n\n"
        "[All quantities](index.md)\n"
    )


def quantity_module(q: Any) -> ModuleType:
    """The file in which a quantity is defined."""
    import surefoot.signals

    for path in sorted(Path(surefoot.signals.__file__).parent.glob("*.py")):
        if f'name="{q.name}",\n' in path.read_text(encoding="utf-8"):
            return importlib.import_module(f"surefoot.signals.{path.stem}")
    raise SystemExit(f"quantity {q.name}: expected a file that defines it, for its page; got none")


@cache
def quantities_read(rule: Any) -> tuple[str, ...]:
    """The quantities that a rule's file, or a file of the diagnosis that it imports, asks for."""
    from surefoot.signals import QUANTITIES

    text = rule_source(rule)
    helpers = set(re.findall(r"^from surefoot\.diagnosis\.(\w+) import", text, re.MULTILINE))
    for name in sorted(helpers - _ASKED_BY_ALL - {"rules"}):
        text += inspect.getsource(importlib.import_module(f"surefoot.diagnosis.{name}"))
    return tuple(name for name in QUANTITIES if f'.get("{name}")' in text)


@cache
def named_causes(rule: Any) -> tuple[Any, ...]:
    """The causes that a rule can name: those that its file speaks of."""
    from surefoot.findings import Cause

    named = set(re.findall(r"\bCause\.([A-Z_]+)", rule_source(rule)))
    return tuple(cause for cause in Cause if cause.name in named)


def rule_source(rule: Any) -> str:
    """The file of a rule."""
    return inspect.getsource(importlib.import_module(rule.judge.__module__))


def finding_of(cause: Any) -> Any:
    """A finding of nothing but a cause, for the decision table."""
    from surefoot.findings import Finding, Pathology, Severity

    return Finding("", Pathology.SPIKE, cause, Severity.HARMFUL, "")


def to_rules(cause: Any) -> str:
    """Links to the rules that can name a cause."""
    from surefoot.diagnosis import RULES

    return joined(
        f"[{key}](../rules/{key}.md)"
        for key, rule in sorted(RULES.items())
        if cause in named_causes(rule)
    )


def to_page(name: str, folder: str = "") -> str:
    """The name of a remedy or a quantity, which leads to its page."""
    return f"[{prose(name)}]({folder}{name}.md)"


def link_or_group(name: str) -> str:
    """A name that leads to its page, or a group of them."""
    return to_page(name) if "." in name else f"{name}.\\*"


def joined(parts: Iterable[str]) -> str:
    """Parts with commas, each once."""
    return ", ".join(dict.fromkeys(parts))


def parameters(defaults: Mapping[str, Any]) -> str:
    """Parameters with their defaults."""
    return ", ".join(f"`{name}` = `{value!r}`" for name, value in defaults.items())


def code(word: str) -> str:
    """A word as code."""
    return f"`{word}`"


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
    """Write docs/rules/, docs/remedies/ and docs/quantities/ anew."""
    made = pages()
    for folder in FOLDERS:
        (DOCS / folder).mkdir(exist_ok=True)
        for stale in (DOCS / folder).glob("*.md"):
            stale.unlink()
    for path, text in made.items():
        (DOCS / path).write_text(text, encoding="utf-8")
    counts = {folder: sum(path.startswith(folder) for path in made) - 1 for folder in FOLDERS}
    print(", ".join(f"{count} {folder}" for folder, count in counts.items()))


if __name__ == "__main__":
    main()
