"""Every example on the page of the integrations runs as it stands there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import surefoot
from frameworks_fixture import load
from surefoot.testing import assert_healthy

PAGE = Path(__file__).resolve().parents[1] / "docs" / "integrations.md"
# What an extra installs under another name than its own; a heavy one is left to `./dev zoo`.
MODULES = {"export": "pyarrow", "prometheus": "prometheus_client"}
LIGHT = {"", "export", "prometheus"}


def examples() -> list[Any]:
    """(extra, code) of each block of Python but the first, which all of them go on from."""
    found = []
    for section in re.split(r"^#+ ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[2:]:
        title = section.partition("\n")[0]
        extra = re.search(r"pip install 'surefoot\[([\w,]+)\]'", section)
        name = extra[1] if extra else ""
        marks = () if name in LIGHT else (pytest.mark.zoo,)
        found += [
            pytest.param(name, code, marks=marks, id=title)
            for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        ]
    return found


def training() -> str:
    """The first block: the training that all go on from."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]


def test_there_is_an_example_of_each() -> None:
    titles = [param.id for param in examples()]
    wanted = {"TensorBoard", "Weights & Biases", "MLflow", "Trackio", "OpenTelemetry", "Prometheus"}
    assert wanted < set(titles)
    assert max(len(param.values[1].splitlines()) for param in examples()) <= 40


@pytest.fixture(scope="module")
def extra(request: pytest.FixtureRequest) -> str:
    """One that is installed; imported before the test looks for traces: Lightning leaves some."""
    for name in filter(None, request.param.split(",")):
        load(name)
        pytest.importorskip(MODULES.get(name, name))
    return request.param


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("extra", "code"), examples(), indirect=["extra"])
def test_it_runs(
    extra: str, code: str, workdir: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    if extra == "mlflow":
        utils = importlib.import_module("mlflow").tracking._tracking_service.utils
        monkeypatch.setattr(utils, "_tracking_uri", None)  # its own default
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(workdir))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr("sys.excepthook", __import__("sys").excepthook)  # W&B leaves its own
    torch.manual_seed(0)
    space: dict[str, Any] = {"__name__": "example"}
    exec(compile(training(), "training", "exec"), space)
    exec(compile(code.replace("8000", "0"), "example", "exec"), space)
    tests = [value for name, value in space.items() if name.startswith("test_")]
    for test in tests:
        test(assert_healthy)
    if "server" in space:
        space["server"].server_close()
        space["thread"].join(30)
    output = space.get("output")
    assert getattr(output, "problem", None) is None
    watch = space.get("watch")
    assert not isinstance(watch, surefoot.Watch) or watch.steps == 30
    called = space.get("callback", space.get("handler"))
    assert called is None or (called.report.steps >= 30 and called.problem is None)
    assert "surefoot" not in caplog.text
