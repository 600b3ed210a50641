"""For the tests of a project: its model must be sound before it is trained."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surefoot.findings import Check, Finding


def assert_healthy(
    model: Any,
    batch: Any,
    loss_fn: Any = None,
    optimizer: Any = None,
    *,
    ignore: Collection[str] = (),
) -> Check:
    """Raise AssertionError if `surefoot.check` finds anything fatal or harmful; return the check.

    The error says what is wrong, by which evidence, and what helps first. Everything that is given
    stays as it is. See `surefoot.check` for what a batch and a loss function may be. ignore: ids of
    rules to leave out. Raises BuildError where the parts do not fit together.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> model, batch = torch.nn.Linear(8, 2), (torch.randn(64, 8), torch.randint(2, (64,)))
    >>> assert_healthy(model, batch, torch.nn.CrossEntropyLoss()).verdict
    <Verdict.HEALTHY: 'healthy'>
    """
    __tracebackhide__ = True
    from surefoot.checking import check
    from surefoot.findings import Verdict

    found = check(model, batch, loss_fn, optimizer, ignore=ignore)
    if found.verdict is Verdict.UNSTABLE:
        raise AssertionError(_words(found))
    return found


def _words(found: Check) -> str:
    from surefoot.findings import Severity
    from surefoot.views.words import lead

    first = lead(found)
    assert first is not None
    lines = _in_full(first)
    for finding in found.findings:
        if finding is not first and finding.severity is not Severity.ADVICE:
            lines.append(f"as well: {_head(finding)}")
    mute = f"surefoot explain {first.rule} says more; ignore=[{first.rule!r}] mutes it"
    return "\n".join([*lines, mute])


def _in_full(finding: Finding) -> list[str]:
    """A finding with its evidence and its first remedy."""
    from surefoot.views.words import clean, clean_code, number, sentence

    lines = [_head(finding)]
    lines += [
        f"  {clean(e.quantity)}: {number(e.value)}, expected {clean(e.expected)}"
        for e in finding.evidence
    ]
    for remedy in finding.remedies[:1]:
        target = f" on {clean(remedy.target)}" if remedy.target else ""
        lines.append(f"remedy: {clean(remedy.remedy)}{target}. {sentence(remedy.why)}")
        lines += [f"    {line}" for line in clean_code(remedy.code).splitlines()]
    return lines


def _head(finding: Finding) -> str:
    from surefoot.views.words import clean, sentence

    where = f" at {clean(finding.layer)}" if finding.layer else ""
    return f"{finding.severity} {clean(finding.rule)}{where}: {sentence(finding.sentence)}"
