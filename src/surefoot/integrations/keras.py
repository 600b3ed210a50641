"""Keras 3 with PyTorch behind it: a callback for `model.fit`.

from surefoot.integrations.keras import SurefootCallback

model.fit(x, y, callbacks=[SurefootCallback()])
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from surefoot.integrations.companion import Companion, extended
from surefoot.integrations.output import library
from surefoot.record.metrics import LEARNING_RATE, PREFIX


class Hooks(Companion):
    """Watches each `model.fit` of Keras; its numbers are in the logs of each epoch, and History.

    They are those of the epoch's last step, and reach the callbacks that come after this one. What
    was not measured in an epoch is NaN there, so that all columns of History are of one length.
    Keras updates the weights by itself, so that a step is the end of backward here. See
    `Companion` for the settings. Raises RuntimeError if another backend than torch is in use.
    """

    model: Any  # set by Keras

    def __init__(self, **settings: Any) -> None:
        used = library("keras", "keras").backend.backend()
        if used != "torch":
            raise RuntimeError(
                f"expected Keras with the backend torch, got {used}: "
                "set KERAS_BACKEND=torch before keras is imported"
            )
        super().__init__(**settings)

    def on_train_begin(self, logs: Any = None) -> None:
        """Keras trains without an optimizer of torch's."""
        with self._quietly():
            self._begin(self.model, [], by_hand=True)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """End the fit where nothing is to be hoped for."""
        if self._hopeless():
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add the newest step's numbers to the epoch's."""
        found = self._metrics()
        with self._quietly():
            if found:
                found[LEARNING_RATE] = float(self.model.optimizer.learning_rate)
            if logs is not None:
                logs.update(self._in_columns(found, epoch))

    def _in_columns(self, found: dict[str, float], epoch: int) -> dict[str, float]:
        """With NaN where History has a number of earlier epochs, and in History the reverse."""
        history = self.model.history
        if epoch in history.epoch:  # it was told before, and is not told of these
            return found
        columns = history.history
        past = max(map(len, columns.values()), default=0)
        for name in found:
            columns.setdefault(name, [math.nan] * past)
        missing = [name for name in columns if name.startswith(PREFIX) and name not in found]
        return {**found, **dict.fromkeys(missing, math.nan)}

    def on_train_end(self, logs: Any = None) -> None:
        """Say the verdict."""
        self._finish()


if TYPE_CHECKING:
    SurefootCallback = Hooks


def __getattr__(name: str) -> Any:
    if name == "SurefootCallback":
        return extended(globals(), "keras.callbacks", "Callback", "keras")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
