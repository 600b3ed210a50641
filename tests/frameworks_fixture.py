"""The same small training in every framework: digits, a plain network, one fault at a time."""

from __future__ import annotations

import functools
import importlib
import os
import tempfile
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

ROWS, BATCH, EPOCHS = 256, 16, 3
STEPS = EPOCHS * ROWS // BATCH
NAMES = (
    "lightning",
    "pytorch_lightning",
    "transformers",
    "accelerate",
    "keras",
    "skorch",
    "ignite",
)

IMPORTS = {"lightning": "lightning.pytorch"}

MARKS = [
    pytest.mark.zoo,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
]


def load(*names: str) -> None:
    """Import what is there of some frameworks."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    for name in names:
        with suppress(ImportError):
            importlib.import_module(IMPORTS.get(name, name))


@dataclass
class Fitted:
    """What a fit gave: weights, the numbers in the framework's own log, and who watched."""

    weights: list[list[float]]
    logged: list[dict[str, float]] = field(default_factory=list)
    watching: Any = None

    def of(self, name: str) -> list[float]:
        return [row[name] for row in self.logged if row.get(name) is not None]


def rows(fault: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [N, 64], standardised, and labels [N]; "nan": one pixel is no number."""
    data = load_digits()
    x = torch.tensor(data.data[:ROWS], dtype=torch.float32)
    x = (x - x.mean()) / x.std()
    if fault == "nan":
        x[100, 20] = torch.nan
    return x, torch.tensor(data.target[:ROWS])


def network(fault: str | None = None, seed: int = 0) -> nn.Sequential:
    """Two hidden layers of ReLU; "vanishing": a dozen of the sigmoid."""
    torch.manual_seed(seed)
    depth, activation = (12, nn.Sigmoid) if fault == "vanishing" else (2, nn.ReLU)
    inner = [m for _ in range(depth - 1) for m in (nn.Linear(32, 32), activation())]
    return nn.Sequential(nn.Linear(64, 32), activation(), *inner, nn.Linear(32, 10))


def loader(fault: str | None = None) -> torch.utils.data.DataLoader[Any]:
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*rows(fault)), BATCH, shuffle=True
    )


def weights(module: nn.Module) -> list[list[float]]:
    return [p.detach().flatten().tolist() for p in module.parameters()]


def fit(name: str, folder: Path, settings: Any, fault: str | None = None) -> Fitted:
    """Train in a framework; settings: of what watches."""
    return FITS[name](name, folder, settings, fault)


@functools.cache
def alone(name: str, fault: str | None = None) -> str:
    """The weights after a training that nobody watches, as text."""
    with tempfile.TemporaryDirectory() as folder:
        return repr(FITS[name](name, Path(folder), None, fault).weights)


def callback(name: str, settings: Any) -> Any:
    """A framework's SurefootCallback."""
    module = importlib.import_module(f"surefoot.integrations.{name}")
    return module.SurefootCallback(**{"verbose": False, **settings})


# -- the frameworks -------------------------------------------------------------------------------


def lightning_module(pl: Any) -> type:
    """A LightningModule of the library that is asked for."""

    class Digits(pl.LightningModule):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=2e-3)

    return Digits


def lightning_trainer(pl: Any, folder: Path, callbacks: list[Any], **given: Any) -> tuple[Any, Any]:
    """(trainer, the list that its logger appends to)."""
    logged: list[dict[str, float]] = []

    class Logger(pl.loggers.Logger):
        name, version = "list", 0

        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            logged.append({**metrics, "step": step})

        def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    settings = {
        "max_epochs": EPOCHS,
        "logger": Logger(),
        "log_every_n_steps": 2,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "accelerator": "cpu",
        "default_root_dir": folder,
        **given,
    }
    return pl.Trainer(callbacks=callbacks, **settings), logged


def _lightning(name: str, folder: Path, settings: Any, fault: str | None) -> Fitted:
    pl = pytest.importorskip("lightning.pytorch" if name == "lightning" else name)
    watching = None if settings is None else callback("lightning", settings)
    trainer, logged = lightning_trainer(
        pl, folder, [] if watching is None else [watching], gradient_clip_val=0.5
    )
    model = lightning_module(pl)(network(fault))
    trainer.fit(model, loader(fault))
    return Fitted(weights(model), logged, watching)


class Head(nn.Module):
    """What the Trainer wants of a model: a loss from named arguments."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def trainer_of(folder: Path, fault: str | None, **given: Any) -> Any:
    """Hugging Face's Trainer with its own clipping, at half a unit."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    x, y = rows(fault)
    data = [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]
    settings = {
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.5,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 2,
        "disable_tqdm": True,
        "seed": 0,
        **given,
    }
    return transformers.Trainer(
        model=Head(network(fault)),
        args=transformers.TrainingArguments(str(folder), **settings),
        train_dataset=data,
        eval_dataset=data,
    )


def _transformers(name: str, folder: Path, settings: Any, fault: str | None) -> Fitted:
    trainer = trainer_of(folder, fault)
    watching = None
    if settings is not None:
        pytest.importorskip("transformers")
        watching = callback("transformers", settings).attach(trainer)
    trainer.train()
    return Fitted(weights(trainer.model), trainer.state.log_history, watching)


def list_tracker() -> Any:
    """A tracker of Accelerate's own kind, which appends to `logged`."""
    tracking = pytest.importorskip("accelerate.tracking")

    class Tracker(tracking.GeneralTracker):
        name, requires_logging_directory = "list", False

        def __init__(self) -> None:
            super().__init__()
            self.logged: list[dict[str, float]] = []

        @property
        def tracker(self) -> Any:
            return self.logged

        def store_init_configuration(self, values: Any) -> None: ...

        def log(self, values: Any, step: Any = None, **_: Any) -> None:
            self.logged.append({**values, "step": step})

    return Tracker()


def _accelerate(name: str, folder: Path, settings: Any, fault: str | None) -> Fitted:
    accelerate = pytest.importorskip("accelerate")
    tracker = list_tracker()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2, log_with=tracker)
    accelerator.init_trackers("digits")
    net = network(fault)
    model, optimizer, batches = accelerator.prepare(
        net, torch.optim.Adam(net.parameters(), lr=2e-3), loader(fault)
    )
    watching: Any = nullcontext()
    if settings is not None:
        from surefoot.integrations.accelerate import watch

        watching = watch(accelerator, model, optimizer, every=2, **settings)
    with watching:
        for _ in range(2 * EPOCHS):
            for x, y in batches:
                with accelerator.accumulate(model):
                    accelerator.backward(F.cross_entropy(model(x), y))
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 0.5)
                    optimizer.step()
                    optimizer.zero_grad()
                if settings is not None:
                    watching.log()
    if settings is not None:
        watching = Reported(watching)
    return Fitted(weights(net), tracker.logged, watching)


class Reported:
    """An output of Accelerate, to be asked like a callback."""

    def __init__(self, output: Any) -> None:
        self.watch, self.problem = output.watch, output.problem
        self.report = output.report()


def _keras(name: str, folder: Path, settings: Any, fault: str | None) -> Fitted:
    load("keras")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras was imported with another backend")
    keras.utils.set_random_seed(0)
    x, y = (t.numpy() for t in rows(fault))
    kind, depth = ("sigmoid", 12) if fault == "vanishing" else ("relu", 2)
    inner = [keras.layers.Dense(32, activation=kind) for _ in range(depth)]
    model = keras.Sequential([keras.Input((64,)), *inner, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(2e-3), loss=loss)
    watching = None if settings is None else callback("keras", settings)
    callbacks = [] if watching is None else [watching]
    history = model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    columns = history.history
    logged = [{k: v[i] for k, v in columns.items()} for i in range(len(columns["loss"]))]
    return Fitted([w.flatten().tolist() for w in model.get_weights()], logged, watching)


def skorch_net(fault: str | None, **given: Any) -> Any:
    skorch = pytest.importorskip("skorch")
    torch.manual_seed(0)
    return skorch.NeuralNetClassifier(
        network,
        module__fault=fault,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=2e-3,
        batch_size=BATCH,
        max_epochs=EPOCHS,
        train_split=None,
        iterator_train__shuffle=True,
        verbose=0,
        **given,
    )


def _skorch(name: str, folder: Path, settings: Any, fault: str | None) -> Fitted:
    pytest.importorskip("skorch")
    callbacks = [] if settings is None else [callback("skorch", settings)]
    net = skorch_net(fault, callbacks=callbacks)
    net.fit(*(t.numpy() for t in rows(fault)))
    logged = [batch for epoch in net.history for batch in epoch["batches"]]
    watching = callbacks[0] if callbacks else None
    return Fitted(weights(net.module_), logged, watching)


def _ignite(name: str, folder: Path, settings: Any, fault: str | None) -> Fitted:
    pytest.importorskip("ignite")
    from ignite.engine import Events, create_supervised_trainer

    net = network(fault)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    engine = create_supervised_trainer(net, optimizer, nn.CrossEntropyLoss())
    logged: list[dict[str, float]] = []
    watching = None
    if settings is not None:
        from surefoot.integrations.ignite import SurefootHandler

        watching = SurefootHandler(**{"verbose": False, **settings})
        watching.attach(engine, net, optimizer)
    engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: logged.append(dict(e.state.metrics))
    )
    engine.run(loader(fault), max_epochs=EPOCHS)
    return Fitted(weights(net), logged, watching)


FITS: dict[str, Callable[[str, Path, Any, str | None], Fitted]] = {
    "lightning": _lightning,
    "pytorch_lightning": _lightning,
    "transformers": _transformers,
    "accelerate": _accelerate,
    "keras": _keras,
    "skorch": _skorch,
    "ignite": _ignite,
}
