"""PyTorch-Ignite: a handler for an Engine that trains.

from surefoot.integrations.ignite import SurefootHandler

watching = SurefootHandler()
watching.attach(trainer, model, optimizer)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from surefoot.integrations.companion import Companion
from surefoot.integrations.output import library


class SurefootHandler(Companion):
    """Watches each run of an Engine; its numbers are in `engine.state.metrics` at each iteration.

    So they are there for Ignite's loggers, with `metric_names="all"` or by their names. See
    `Companion` for the settings. An error that ends a run is not listened to, for Ignite would
    take that as a sign that it was dealt with: call `stop()` then.
    """

    def attach(self, engine: Any, model: nn.Module, optimizer: Any) -> None:
        """Add the handlers to an Engine; optimizer: one or several.

        Attach it before the loggers that are to see the numbers of the same iteration.
        """
        events = library("ignite.engine", "ignite").Events
        several = isinstance(optimizer, Collection)
        optimizers = list(optimizer) if several else [optimizer]
        engine.add_event_handler(events.STARTED, self._started, model, optimizers)
        engine.add_event_handler(events.ITERATION_COMPLETED, self._iterated)
        engine.add_event_handler(events.COMPLETED, self._completed)

    def _started(self, engine: Any, model: nn.Module, optimizers: list[Any]) -> None:
        self._begin(model, optimizers)

    def _iterated(self, engine: Any) -> None:
        found = self._metrics()
        with self._quietly():
            engine.state.metrics.update(found)
        if self._hopeless():
            engine.terminate()

    def _completed(self, engine: Any) -> None:
        self._finish()
