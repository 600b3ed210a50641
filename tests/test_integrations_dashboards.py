"""Real dashboards: what W&B, MLflow and Trackio hold after a training."""

from __future__ import annotations

import json
import logging
import math
import shutil
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import surefoot
from outputs_fixture import STEPS, WRITTEN, build, step, train
from record_fixture import wait_until
from surefoot.findings import Report, Severity
from surefoot.integrations.mlflow import MLflow
from surefoot.integrations.opentelemetry import OpenTelemetry
from surefoot.integrations.trackio import Trackio
from surefoot.integrations.wandb import Wandb


def records(path: Path) -> Iterator[Any]:
    """The records of an offline run of W&B: LevelDB's log format around its protobuf messages."""
    from wandb.proto import wandb_internal_pb2

    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        size, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # full, or the last of several
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def history(path: Path) -> list[dict[str, Any]]:
    """What was logged, row by row."""
    return [
        {
            "/".join([i.key, *i.nested_key]).strip("/"): json.loads(i.value_json)
            for i in r.history.item
        }
        for r in records(path)
        if r.WhichOneof("record_type") == "history"
    ]


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore")
class TestWandb:
    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        wandb = pytest.importorskip("wandb")
        monkeypatch.setenv("WANDB_SILENT", "true")
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # W&B puts its own there for good
        run = wandb.init(project="p", mode="offline", dir=str(tmp_path))
        yield run
        run.finish()

    def file(self, run: Any, tmp_path: Path) -> Path:
        run.finish()
        (found,) = (p for p in tmp_path.rglob("*.wandb") if not p.parent.is_symlink())
        # Its process may still write when `finish` has returned.
        wait_until(lambda: any(r.WhichOneof("record_type") == "exit" for r in records(found)))
        return found

    def test_its_own_axis(self, run: Any, tmp_path: Path) -> None:
        model, optimizer = build()
        losses = []
        with surefoot.watch(model, optimizer) as watch, Wandb(watch, every=5) as out:
            for _ in range(STEPS):
                losses.append(step(model, optimizer))
                run.log({"mine": 1.0})  # moves W&B's own step
                out.log()
        assert out.problem is None
        assert run.summary["surefoot/verdict"] == "healthy"
        file = self.file(run, tmp_path)
        rows = [row for row in history(file) if "surefoot/loss" in row]
        assert [row["surefoot/step"] for row in rows] == WRITTEN
        assert [row["surefoot/loss"] for row in rows] == [losses[k] for k in WRITTEN]
        assert rows[-1]["surefoot/healthy"] == 1
        axes = [r.metric for r in records(file) if r.WhichOneof("record_type") == "metric"]
        assert ("surefoot/*", "surefoot/step") in [(m.glob_name, m.step_metric) for m in axes]

    def test_together_with_yours(self, run: Any, tmp_path: Path) -> None:
        """A step of the user's own puts both into one row. What is not finite arrives as such."""
        model, optimizer = build()
        with surefoot.watch(model, optimizer) as watch, Wandb(watch, run, every=1) as out:
            for k in range(3):
                loss = step(model, optimizer, math.nan)
                run.log({"mine": loss}, step=10 + k)
                out.log(10 + k)
        assert out.problem is None
        assert run.summary["surefoot/verdict"] == "unstable"
        rows = history(self.file(run, tmp_path))
        assert [(r["_step"], r["surefoot/loss"], r["mine"]) for r in rows if "mine" in r] == [
            (10 + k, pytest.approx(math.nan, nan_ok=True), pytest.approx(math.nan, nan_ok=True))
            for k in range(3)
        ]

    def test_without_a_run(self) -> None:
        pytest.importorskip("wandb")
        with pytest.raises(RuntimeError, match=r"call wandb.init\(\) before"):
            Wandb(surefoot.watch(*build()))


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, which take it seconds to make."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("alembic")
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore")
class TestMLflow:
    @pytest.fixture(autouse=True, params=["files", "sqlite"])
    def mlflow(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Any]:
        mlflow = pytest.importorskip("mlflow")
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        monkeypatch.chdir(tmp_path)
        before = mlflow.get_tracking_uri()
        where = (tmp_path / "mlruns").as_uri()
        if request.param == "sqlite":
            shutil.copy(request.getfixturevalue("empty_database"), tmp_path / "mlflow.db")
            where = f"sqlite:///{tmp_path / 'mlflow.db'}"
        mlflow.set_tracking_uri(where)
        yield mlflow
        mlflow.set_tracking_uri(before)

    def values(self, mlflow: Any, run: Any, name: str) -> list[tuple[int, float]]:
        found = mlflow.MlflowClient().get_metric_history(run.info.run_id, name)
        return [(m.step, m.value) for m in found]

    def test_a_run(self, mlflow: Any) -> None:
        with mlflow.start_run() as run:
            losses = train(lambda w: MLflow(w, every=5, layers=True), STEPS)
        assert self.values(mlflow, run, "surefoot/loss") == [(k, losses[k]) for k in WRITTEN]
        of_layer = self.values(mlflow, run, "surefoot/layer_gradient_norm/2")
        assert [k for k, _ in of_layer] == WRITTEN
        client = mlflow.MlflowClient()
        assert client.get_run(run.info.run_id).data.tags["surefoot.verdict"] == "healthy"
        path = client.download_artifacts(run.info.run_id, "surefoot/report.json")
        assert Report.from_json(json.loads(Path(path).read_text())).steps == STEPS

    @pytest.mark.parametrize("factor", [math.nan, math.inf])
    def test_what_is_not_finite(self, mlflow: Any, factor: float) -> None:
        """NaN is NaN; for infinity a database has its largest number."""
        model, optimizer = build()
        run = mlflow.MlflowClient().create_run("0")
        with surefoot.watch(model, optimizer) as watch, MLflow(watch, run.info.run_id) as out:
            step(model, optimizer, factor)
            out.log()
        assert out.problem is None
        ((_, loss),) = self.values(mlflow, run, "surefoot/loss")
        if mlflow.get_tracking_uri().startswith("sqlite") and not math.isnan(factor):
            factor = sys.float_info.max
        assert loss == pytest.approx(factor, nan_ok=True)

    def test_hostile_names(self, mlflow: Any) -> None:
        from torch import nn

        keys = ["<script>", "a/b", "naïve", "x" * 400, "a b", "a:b", "a//b"]
        model = nn.ModuleDict({key: nn.Linear(2, 2) for key in keys})
        optimizer = build()[1].__class__(model.parameters())
        watching = surefoot.watch(model, optimizer)
        with mlflow.start_run() as run, watching as watch, MLflow(watch, layers=True) as out:
            sum(m.weight.sum() + m.bias.sum() for m in model.values()).backward()
            optimizer.step()
        assert out.problem is None
        metrics = mlflow.MlflowClient().get_run(run.info.run_id).data.metrics
        norms = [k for k in metrics if k.startswith("surefoot/layer_gradient_norm/")]
        assert len(norms) == len(keys)

    def test_a_server_that_does_not_answer(
        self, mlflow: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The training waits for nothing, its end not for ever."""
        go = threading.Event()
        monkeypatch.setattr("surefoot.integrations.mlflow._PATIENCE", 0.2)
        with mlflow.start_run():
            model, optimizer = build()
            with surefoot.watch(model, optimizer) as watch:
                out = MLflow(watch, every=1)
                out._client.log_batch = lambda *_, **__: go.wait(60)
                begun = time.monotonic()
                for _ in range(300):  # more than may wait
                    step(model, optimizer)
                    out.log()
                out.finish()
        assert time.monotonic() - begun < 30
        assert "MLflow, the training goes on: TimeoutError" in caplog.text
        go.set()
        out._waiting.put(None)
        out._thread.join(60)

    def test_a_server_that_is_slow(
        self, mlflow: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Steps are left out, which is said once; the verdict is not."""
        monkeypatch.setattr("surefoot.integrations.mlflow._WAITING", 2)
        model, optimizer = build()
        with mlflow.start_run() as run, surefoot.watch(model, optimizer) as watch:
            out = MLflow(watch, every=1)
            log_batch, go = out._client.log_batch, threading.Event()

            def slow(*given: Any, **named: Any) -> None:
                go.wait(60)
                log_batch(*given, **named)

            out._client.log_batch = slow
            for _ in range(9):
                step(model, optimizer)
                out.log()
            threading.Timer(0.3, go.set).start()
            out.finish()
        assert out.problem is None
        steps = [k for k, _ in self.values(mlflow, run, "surefoot/loss")]
        assert steps[0] == 0 and 2 <= len(steps) <= 4
        data = mlflow.MlflowClient().get_run(run.info.run_id).data
        assert data.tags["surefoot.verdict"] == "healthy"
        assert data.metrics["surefoot/healthy"] == 1
        said = [r.getMessage() for r in caplog.records if r.name == "surefoot"]
        left_out = 9 - len(steps)
        assert said == [f"MLflow was slower than the training: {left_out} writes are left out"]

    def test_a_server_that_fails(self, mlflow: Any, caplog: pytest.LogCaptureFixture) -> None:
        def away(*_: Any, **__: Any) -> None:
            raise ConnectionError("away")

        with mlflow.start_run():
            model, optimizer = build()
            with surefoot.watch(model, optimizer) as watch, MLflow(watch, every=1) as out:
                out._client.log_batch = away
                for _ in range(5):
                    step(model, optimizer)
                    out.log()
        said = [r for r in caplog.records if r.name == "surefoot" and r.levelno == logging.WARNING]
        assert len(said) == 1
        assert out.problem == "ConnectionError: away"
        out._thread.join(60)
        assert not out._thread.is_alive()

    def test_without_a_run(self) -> None:
        with pytest.raises(RuntimeError, match=r"call mlflow.start_run\(\) before"):
            MLflow(surefoot.watch(*build()))


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore")
class TestTrackio:
    def test_a_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        trackio = pytest.importorskip("trackio")
        from trackio.sqlite_storage import SQLiteStorage

        trackio.init(project="p", name="r", auto_log_gpu=False, auto_log_cpu=False)
        model, optimizer = build()
        losses = []
        with surefoot.watch(model, optimizer) as watch, Trackio(watch, every=5) as out:
            for k in range(STEPS):
                losses.append(step(model, optimizer, math.nan if k > 20 else 1.0))
                out.log()
        trackio.finish()
        assert out.problem is None
        rows = [row for row in SQLiteStorage.get_logs("p", "r") if "surefoot/loss" in row]
        assert [row["step"] for row in rows] == WRITTEN
        assert [row["surefoot/loss"] for row in rows[:-1]] == [losses[k] for k in WRITTEN[:-1]]
        assert math.isnan(rows[-1]["surefoot/loss"])
        (alert,) = SQLiteStorage.get_alerts("p")
        (found,) = watch.findings
        level = "error" if found.severity is Severity.FATAL else "warn"
        assert (alert["title"], alert["level"]) == ("surefoot SF201", level)
        assert alert["text"] == found.sentence


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore")
class TestOpenTelemetry:
    def test_a_meter(self) -> None:
        pytest.importorskip("opentelemetry.sdk")
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], shutdown_on_exit=False)
        meter = provider.get_meter("test")
        losses = train(
            lambda w: OpenTelemetry(w, meter, attributes={"run": "mine"}, layers=True), STEPS
        )
        data = reader.get_metrics_data()
        provider.shutdown()
        (metrics,) = (s.metrics for r in data.resource_metrics for s in r.scope_metrics)
        points = {m.name: m.data.data_points for m in metrics}
        ((loss,), (healthy,)) = points["surefoot.loss"], points["surefoot.healthy"]
        assert (loss.value, dict(loss.attributes)) == (losses[-1], {"run": "mine"})
        assert healthy.value == 1
        layers = {point.attributes["layer"] for point in points["surefoot.layer.gradient_norm"]}
        assert layers == {"0", "2", "3"}
        assert all(m.description and m.unit == "1" for m in metrics)
