"""skorch: a callback for `NeuralNet` and those made from it.

from surefoot.integrations.skorch import SurefootCallback

net = NeuralNetClassifier(Module, callbacks=[SurefootCallback()])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surefoot.integrations.companion import SETTINGS, Companion, extended
from surefoot.record.metrics import GRADIENT_NORM


class Hooks(Companion):
    """Watches each `net.fit` of skorch; its numbers are in `net.history`, one row a batch.

    `net.history[:, "surefoot/gradient_norm"]` has that of each epoch's last step. See `Companion`
    for the settings. skorch tells no callback of an error that ends a fit: call `stop()` then.
    """

    def _get_param_names(self) -> list[str]:
        # skorch takes every attribute for a setting, and copies a net by its settings.
        return list(SETTINGS)

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **_: Any) -> None:
        """The module and its optimizers are initialised."""
        with self._quietly():
            names = getattr(net, "_optimizers", None) or ["optimizer"]
            self._begin(net.module_, [getattr(net, f"{name}_") for name in names])

    def on_batch_end(self, net: Any, batch: Any = None, training: Any = None, **_: Any) -> None:
        """Record the numbers of a training batch."""
        if not training:
            return
        found = self._metrics()
        with self._quietly():
            for name, value in found.items():
                net.history.record_batch(name, value)
        if self._hopeless():
            raise KeyboardInterrupt  # by which skorch's own callbacks end a fit

    def on_epoch_end(self, net: Any, *_: Any, **__: Any) -> None:
        """Record one number of the epoch, which is printed with the others."""
        found = self._metrics()
        with self._quietly():
            if GRADIENT_NORM in found:
                net.history.record(GRADIENT_NORM, found[GRADIENT_NORM])

    def on_train_end(self, net: Any, *_: Any, **__: Any) -> None:
        """Say the verdict."""
        self._finish()


if TYPE_CHECKING:
    SurefootCallback = Hooks


def __getattr__(name: str) -> Any:
    if name == "SurefootCallback":
        return extended(globals(), "skorch.callbacks", "Callback", "skorch")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
