"""Lightning: a callback for `lightning.pytorch.Trainer`, or that of `pytorch_lightning`.

from surefoot.integrations.lightning import SurefootCallback

trainer = Trainer(callbacks=[SurefootCallback()])
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from surefoot.integrations.companion import Companion, extended


class Hooks(Companion):
    """Watches each `trainer.fit` of Lightning, and logs through `pl_module.log_dict`.

    The numbers are there for every logger, every `log_every_n_steps` of them, and for callbacks
    that monitor one, such as `EarlyStopping(monitor="surefoot/gradient_norm")`. With
    `gradient_clip_val` they have the norm before clipping as well. See `Companion` for the
    settings.
    """

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Weights and optimizers are as the fit, or the checkpoint, begins with them."""
        with self._quietly():
            self._begin(pl_module, trainer.optimizers)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        """Log what Lightning is about to hand to its loggers."""
        with self._quietly():
            if _logs(trainer) and (found := self._metrics()):
                pl_module.log_dict(found, on_step=True, on_epoch=False)
        if self._hopeless():
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Say the verdict."""
        self._finish()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """An error, or Ctrl-C, has ended the fit."""
        self._finish("raised")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """However the fit has ended."""
        self._finish("raised")


def _logs(trainer: Any) -> bool:
    """Whether Lightning logs this batch: its own callbacks ask in this way too."""
    return bool(getattr(getattr(trainer, "_logger_connector", None), "should_update_logs", True))


def _library() -> str:
    """The one that the script uses; of two that it uses either serves the other's Trainer."""
    old = "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules
    return "pytorch_lightning" if old else "lightning.pytorch"


if TYPE_CHECKING:
    SurefootCallback = Hooks


def __getattr__(name: str) -> Any:
    if name == "SurefootCallback":
        return extended(globals(), _library(), "Callback", "lightning")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
