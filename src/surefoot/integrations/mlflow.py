"""MLflow: metrics under `surefoot/`, the report as artifacts, the verdict as a tag.

from surefoot.integrations.mlflow import MLflow

with surefoot.watch(model, optimizer) as watch, MLflow(watch) as output:
    for batch in loader:
        step(batch)
        output.log()
"""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from surefoot.findings import Report
from surefoot.integrations.output import Output, library
from surefoot.integrations.told import markdown
from surefoot.watching.watch import Watch

_LOG = logging.getLogger("surefoot")
_WAITING = 256  # writes that wait for a slow server; more are dropped
_PATIENCE = 30.0  # seconds that the end of a training waits for it
_BATCH = 1000  # metrics that a server takes at once
_NAME = 200  # characters of a metric's name


class MLflow(Output):
    """Writes to a run, by default the active one, from a thread of its own.

    A tracking server may be slow or away, and its client tries again for minutes: the training
    waits for none of that; at its end it waits for half a minute at most. What a server is too slow
    for is left out, which is said at the end. run_id: of the run to write to, which stays open. See
    `Output` for the rest.

    Layers have names of their own, `surefoot/layer_gradient_norm/NAME`, in which characters that
    MLflow does not allow are underscores.
    """

    name = "MLflow"

    def __init__(
        self,
        watch: Watch,
        run_id: str | None = None,
        *,
        every: int = 10,
        layers: bool = False,
    ) -> None:
        super().__init__(watch, every=every, layers=layers)
        mlflow = library("mlflow", "mlflow")
        if run_id is None:
            active = mlflow.active_run()  # known to this thread only
            if active is None:
                raise RuntimeError(
                    "expected an active run of MLflow, got none: call mlflow.start_run() before, "
                    "or give run_id"
                )
            run_id = active.info.run_id
        self._run_id = run_id
        self._client: Any = mlflow.MlflowClient()
        self._metric: Any = library("mlflow.entities", "mlflow").Metric
        self._names = Names()
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(_WAITING)
        self._dropped = 0  # writes
        self._until: float | None = None  # the end waits
        self._thread = threading.Thread(target=self._work, name="surefoot-mlflow", daemon=True)
        self._thread.start()

    def _write(self, values: dict[str, float], step: int, given: int | None) -> None:
        now, at = int(time.time() * 1000), step if given is None else given
        metrics = [self._metric(self._names[name], x, now, at) for name, x in values.items()]
        for start in range(0, len(metrics), _BATCH):
            part = metrics[start : start + _BATCH]
            self._send(partial(self._client.log_batch, self._run_id, metrics=part))

    def _tell(self, report: Report, step: int) -> None:
        client, run = self._client, self._run_id
        self._send(partial(client.set_tag, run, "surefoot.verdict", str(report.verdict)))
        self._send(partial(client.log_text, run, markdown(report), "surefoot/report.md"))
        self._send(partial(client.log_dict, run, report.to_json(), "surefoot/report.json"))

    def _send(self, action: Callable[[], Any] | None) -> None:
        """Have it done; None for nothing more. The last word is waited for."""
        try:
            self._waiting.put(action, self._finished, self._left() if self._finished else None)
        except queue.Full:
            if self._finished:
                raise TimeoutError(f"it took no more within {_PATIENCE:g} s") from None
            self._dropped += 1  # a step less in a chart is better than a training that waits

    def _left(self) -> float:
        """Seconds that the end may still wait."""
        if self._until is None:
            self._until = time.monotonic() + _PATIENCE
        return max(self._until - time.monotonic(), 0.0)

    def _work(self) -> None:
        while (action := self._waiting.get()) is not None:
            if self.problem is None:
                try:
                    action()
                except Exception as error:
                    self._failed(error)

    def _close(self) -> None:
        if self.problem is not None:  # nothing more is to be waited for
            with suppress(queue.Empty):
                while True:
                    self._waiting.get_nowait()
            return self._waiting.put(None)
        self._send(None)
        if self._dropped:
            _LOG.warning(
                "MLflow was slower than the training: %d writes are left out", self._dropped
            )
        self._thread.join(self._left())
        if self._thread.is_alive():
            raise TimeoutError(f"it did not answer within {_PATIENCE:g} s")


class Names(dict[str, str]):
    """Names as MLflow allows them. In a store of files one name is no folder of another.

    >>> names = Names()
    >>> names["surefoot/gradient_norm"], names["surefoot/gradient_norm/a<b"]
    ('surefoot/gradient_norm', 'surefoot/layer_gradient_norm/a_b')
    >>> names["surefoot/gradient_norm/a>b"], names["surefoot/learning_rate/1"]
    ('surefoot/layer_gradient_norm/a_b-2', 'surefoot/group_learning_rate/1')
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def __missing__(self, name: str) -> str:
        root, quantity, *rest = name.split("/", 2)  # a layer's name may hold slashes of its own
        made = f"{root}/{quantity}"
        if rest:
            of = "group" if quantity == "learning_rate" else "layer"
            plain = re.sub(r"[^A-Za-z0-9_.\- ]", "_", rest[0])[-_NAME:]
            made = f"{root}/{of}_{quantity}/{plain}"
        unique, count = made, 1
        while unique in self._taken:
            unique, count = f"{made}-{count + 1}", count + 1
        self._taken.add(unique)
        self[name] = unique
        return unique
