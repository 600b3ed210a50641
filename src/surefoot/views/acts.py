"""What a guard has done to a run, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surefoot.views.words import clean, plural

_DONE = {
    "skip": "held back {}",
    "clip": "clipped {}",
    "roll back": "rolled back {}",
    "undo": "took back {}",
    "halt": "halted the run",
}
_NOUNS = {"skip": "step", "clip": "step", "roll back": "time", "undo": "rollback"}


def guarded(guard: Mapping[str, Any]) -> str:
    """The acts of `Report.guard` by number, and how they began; empty if there were none.

    >>> first = {"step": 7, "reason": "the gradient is not finite", "parameter": "head.weight"}
    >>> guarded({"acts": {"skip": 2}, "first": first, "dry_run": False})
    'The guard held back 2 steps; first at step 7: the gradient is not finite (head.weight).'
    """
    acts = guard.get("acts") or {}
    done = [
        words.format(plural(int(acts[rung]), _NOUNS.get(rung, "")))
        for rung, words in _DONE.items()
        if acts.get(rung)
    ]
    if not done:
        return ""
    first = guard.get("first") or {}
    where = f" ({clean(str(first['parameter']))})" if first.get("parameter") else ""
    who = "In a dry run, the guard would have" if guard.get("dry_run") else "The guard"
    began = f"first at step {int(first.get('step', 0)):,}: {clean(str(first.get('reason', '')))}"
    return f"{who} {', '.join(done)}; {began}{where}."
