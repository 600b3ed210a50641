"""The numbers of the newest step of a session, read from what its training has at hand."""

from __future__ import annotations

import math

from surefoot.record.metrics import (
    LOSS,
    Metrics,
    act_metrics,
    standing_metrics,
    verdict_metrics,
)
from surefoot.watching.session import Session
from surefoot.watching.training import Training


class Latest:
    """Of the first training of a session; asked again and again, each time in microseconds."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._of: Training | None = None
        self._made: Metrics | None = None
        self._verdict: dict[str, float] | None = None  # the last word, once there is one

    @property
    def steps(self) -> int:
        """Steps of the training so far."""
        training = self._training()
        return training.step if training is not None else 0

    def metrics(self, layers: bool) -> dict[str, float]:
        """See `Watch.metrics`; empty before the first step."""
        training = self._training()
        if training is None or self._made is None or not training.step:
            self._session.interim.asked = True
            return {}
        rows = dict(training.ledger.rows)
        if (updates := training.ledger.newest("update_ratio")) is not None:
            rows["update_ratio"] = updates
        found = self._made.numbers(rows, layers)
        loss = training.loss
        if loss is not None and LOSS in found and not math.isfinite(loss):
            found[LOSS] = loss  # the row cannot tell NaN from infinity
        return found | self._standing(training)

    def _training(self) -> Training | None:
        trainings = self._session.trainings
        if trainings and trainings[0] is not self._of:
            self._of, self._made = trainings[0], Metrics(trainings[0].layers)
        return self._of

    def _standing(self, training: Training) -> dict[str, float]:
        """What was found so far; a look for it is dear, and is left to the session."""
        if training.ended != "running":
            if self._verdict is None:
                self._verdict = verdict_metrics(self._session.report())
            return self._verdict
        interim = self._session.interim
        interim.asked = True
        found = {} if interim.standing is None else standing_metrics(len(interim.standing))
        return found | act_metrics(self._session.guards.counts())
