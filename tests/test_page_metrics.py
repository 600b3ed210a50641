"""What Prometheus reads of the page: the newest numbers of the runs that are live."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from record_fixture import TABLE, wait_until
from surefoot.kernels import STATISTICS
from surefoot.page.app import create
from surefoot.record import Writer, new_folder


def ask(runs: Path, address: str = "/metrics") -> tuple[int, str, str]:
    answer = TestClient(create(runs), base_url="http://localhost").get(address)
    return answer.status_code, answer.headers["content-type"], answer.text


def test_only_live_runs_are_told_of_with_their_newest_numbers(tmp_path: Path) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    for name, loss in (("live", 0.25), ("over", 0.5)):
        writer = Writer(new_folder(tmp_path, name), {})
        writer.declare(0, TABLE, {"loss": 1, "gradient": len(STATISTICS)})
        norms = np.zeros(len(STATISTICS))
        norms[STATISTICS.index("norm")] = 3.0
        for step in range(5):
            writer.put(0, step, {"loss": np.array([loss + 4 - step]), "gradient": norms})
        if name == "over":
            writer.close()
        else:
            wait_until(lambda writer=writer: writer.committed.get(0) == 4)
            open_writer = writer
    status, kind, text = ask(tmp_path)
    open_writer.close()
    assert status == 200 and kind.startswith("text/plain")
    found = {
        (sample.name, sample.labels["run"]): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["surefoot_steps_total", "live"] == 5
    assert found["surefoot_loss", "live"] == 0.25
    assert found["surefoot_gradient_norm", "live"] == 3.0
    assert "over" not in {run for _, run in found}


def test_without_the_library_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    status, _, text = ask(tmp_path)
    assert status == 501 and "pip install" in text
