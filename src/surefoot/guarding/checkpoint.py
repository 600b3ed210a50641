"""The state of a guard in a checkpoint: all of it is looked at before any of it is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from surefoot.guarding.acts import Acts
from surefoot.guarding.form import anything, each, in_turn, keys, maybe, text, whole
from surefoot.guarding.ladder import Ladder
from surefoot.guarding.loss_level import LossLevel
from surefoot.guarding.optimizer_guard import OptimizerGuard
from surefoot.guarding.slowdown import Slowdown
from surefoot.guarding.snapshot import Snapshot, Subjects
from surefoot.guarding.snapshots import Snapshots


def check(
    state: Any, guarded: Sequence[OptimizerGuard], ladder: Ladder, subjects: Subjects | None
) -> None:
    """Raise ValueError, which names the place, unless everything but the clippings can be loaded.

    subjects: what is rolled back, None where nothing is.
    """
    keys(optimizers=each(anything))(state, "")
    count = len(guarded)
    if len(state["optimizers"]) != count:
        raise ValueError(
            f"expected the state of a guard of {count} optimizers, got one of "
            f"{len(state['optimizers'])}: guard the same optimizers as in the run it is from"
        )
    of_each = [keys(outliers=one.outliers.form(), clip=anything) for one in guarded]
    keys(
        steps=whole, clipped=whole, nonfinite=whole, halted=text, optimizers=in_turn(of_each),
        ladder=ladder.form(), level=LossLevel.form(), slowdown=Slowdown.form(count),
        acts=Acts.form(),
    )(state, "")  # fmt: skip
    if subjects is not None and "snapshots" in state:
        Snapshots.form(subjects)(state["snapshots"], "snapshots")
        keys(present=maybe(Snapshot.form(subjects)))(state["snapshots"], "snapshots")


def load_clips(guarded: Sequence[OptimizerGuard], states: Sequence[Mapping[str, Any]]) -> None:
    """Into all clippings or, where one of them refuses, into none; then it raises ValueError."""
    clips = [one.clip or one.automatic for one in guarded]
    before = [clip.state_dict() for clip in clips]
    try:
        for clip, kept in zip(clips, states, strict=True):
            clip.load_state_dict(kept)
    except Exception as error:
        for clip, kept in zip(clips, before, strict=True):
            clip.load_state_dict(kept)
        raise ValueError(
            f"expected the state of the same clipping ({error}): "
            "guard with the same clip= as in the run it is from"
        ) from error
