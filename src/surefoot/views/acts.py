"""What a guard has done to a run, in a sentence."""

from __future__ import annotations

from surefoot.findings import Guarded
from surefoot.views.words import clean, plural

_DONE = {
    "skip": ("held back {}", "step"),
    "clip": ("clipped {}", "step"),
    "roll back": ("rolled back {}", "time"),
    "undo": ("took back {}", "rollback"),
    "halt": ("halted the run", ""),
}


def guarded(guard: Guarded | None) -> str:
    """The acts by number, and how they began; empty if there were none.

    >>> guarded(Guarded({"skip": 2}, 7, "the gradient is not finite", "head.weight"))
    'The guard held back 2 steps; first at step 7: the gradient is not finite (head.weight).'
    """
    done = [
        words.format(plural(guard.acts[rung], noun))
        for rung, (words, noun) in _DONE.items()
        if guard is not None and guard.acts.get(rung)
    ]
    if guard is None or not done:
        return ""
    where = f" ({clean(guard.parameter)})" if guard.parameter else ""
    who = "In a dry run, the guard would have" if guard.dry_run else "The guard"
    began = f"first at step {guard.step:,}: {clean(guard.reason)}"
    return f"{who} {', '.join(done)}; {began}{where}."
