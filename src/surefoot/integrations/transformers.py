"""Hugging Face's Trainer, and those made from it (TRL's, for one).

from surefoot.integrations.transformers import SurefootCallback

trainer = Trainer(model=model, args=arguments, train_dataset=rows)
watching = SurefootCallback().attach(trainer)
trainer.train()
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

from surefoot.integrations.accelerate import bare
from surefoot.integrations.companion import Companion, extended
from surefoot.record.metrics import LOSS

NONFINITE_LOSSES = "surefoot/nonfinite_losses"


class Hooks(Companion):
    """Watches each `trainer.train()`; its numbers are in the Trainer's logs, and its history.

    `surefoot/loss` is the newest step's as it was, also where the Trainer puts the mean of the
    others in the place of one that is NaN (`logging_nan_inf_filter`); `surefoot/nonfinite_losses`
    counts those. With `max_grad_norm` there is the norm before clipping as well. See `Companion`
    for the settings.

    Given as `callbacks=[SurefootCallback()]` it comes behind the Trainer's own reporters, which
    then miss its numbers; `attach` puts it before them.
    """

    def attach(self, trainer: Any) -> Self:
        """Add it to a Trainer, so that TensorBoard, W&B and the others are sent its numbers too."""
        callbacks = trainer.callback_handler.callbacks
        if self not in callbacks:
            trainer.add_callback(self)
        callbacks.remove(self)
        callbacks.insert(0, self)
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Weights and optimizer are as the training, or the checkpoint, begins with them."""
        self._lost = 0
        with self._quietly():
            self._begin(given["model"], [bare(given["optimizer"])])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An optimizer step has been taken."""
        with self._quietly():
            if self.watch is not None:
                loss = self.watch.metrics().get(LOSS, 0.0)
                self._lost += not math.isfinite(loss)
        if self._hopeless():
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Add the newest step's numbers to what is logged of a training."""
        if not logs or "loss" not in logs or self.watch is None:
            return
        if found := self._metrics():
            with self._quietly():
                found[NONFINITE_LOSSES] = float(self._lost)
                logs.update(found)
                if state.log_history and state.log_history[-1].get("step") == state.global_step:
                    state.log_history[-1].update(found)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say the verdict."""
        self._finish()


if TYPE_CHECKING:
    SurefootCallback = Hooks


def __getattr__(name: str) -> Any:
    if name == "SurefootCallback":
        return extended(globals(), "transformers", "TrainerCallback", "transformers")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
