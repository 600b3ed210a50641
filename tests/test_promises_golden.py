"""Promise: what an earlier version wrote is read by this one and all later ones.

tests/data/run_v1 is a run folder as the first version of the schema has it (`python
tests/test_promises_golden.py` made it, and would make one for the next). It is never made again:
should this test fail, reading has to be mended, or a migration written.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from surefoot.findings import Report
from surefoot.record import Follower, RecordError, list_runs, read_run
from surefoot.record.schema import VERSION as SCHEMA

FOLDER = Path(__file__).parent / "data" / "run_v1"
PROOF = {
    "schema": 1,
    "trials": [
        {
            "remedy": "init.kaiming_normal", "target": "fc", "parameters": {"gain": 1.5},
            "outcome": "proven", "words": "loss 2 -> 1", "steps": 40,
        },
    ],
}  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "old"))


def test_the_schema_is_that_of_the_folder_or_there_is_one_for_it() -> None:
    assert SCHEMA == 1, "write tests/data/run_v2 and the migration, and keep reading run_v1"


def test_its_bytes_are_as_they_were() -> None:
    """Git or an editor could have changed them."""
    expected = json.loads((FOLDER.parent / "run_v1.json").read_text())
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FOLDER.iterdir()}
    assert found == expected


def test_everything_of_it_is_read(copy: Path) -> None:
    run = read_run(copy)
    steps = np.arange(40)
    assert set(run.series) == {"loss", "gradient", "update_ratio"}
    loss, gradient, ratio = (run.series[n] for n in ("loss", "gradient", "update_ratio"))
    assert loss.steps.tolist() == gradient.steps.tolist() == steps.tolist()
    expected = (1 / (1 + steps)).astype(np.float32)
    np.testing.assert_array_equal(loss.last[:39, 0], expected[:39])
    assert np.isnan(loss.last[39, 0])
    np.testing.assert_array_equal(gradient.last, np.outer(steps, [2.0, 1.0, 1.0, 0.0, 0.0]))
    assert ratio.steps.tolist() == list(range(0, 40, 8))
    np.testing.assert_array_equal(ratio.last[:, 0], [0.0, 8.0, 16.0, 24.0, 32.0])
    assert run.environment["argv"] == ["train.py", "--lr", "0.1"]
    assert run.layers.model == "Net" and [x.name for x in run.layers.layers] == ["", "fc"]
    (parameter,) = run.layers.parameters
    assert (parameter.name, parameter.shape, parameter.numel) == ("fc.weight", (2, 3), 6)
    (flow,) = run.flows
    assert (flow.step, flow.calls[0].layer, flow.calls[0].output.rms) == (
        4,
        1,
        0.75,
    )  # 1.5 / sqrt(4)
    kinds = [(event.step, event.kind, dict(event.detail)) for event in run.events]
    assert kinds == [(39, "alarm", {"kind": "nonfinite", "parameters": [0]})]


def test_its_verdict_and_what_is_proven(copy: Path) -> None:
    report = read_run(copy).report
    assert str(report.verdict) == "unstable" and report.steps == 40
    root = report.root
    assert root is not None
    assert (root.rule, str(root.pathology), str(root.cause)) == (
        "SF101", "exploding", "weights_too_large",
    )  # fmt: skip
    assert (root.layer, root.last_step, str(root.severity)) == ("fc", 4, "harmful")
    assert root.sentence == "Gradients grow 10x per layer from fc: naïve ≥ 1 — 見."
    assert root.evidence[0].value == "inf"
    remedy = root.remedies[0]
    assert (remedy.remedy, remedy.target, dict(remedy.parameters)) == (
        "init.kaiming_normal", "fc", {"gain": 1.5},
    )  # fmt: skip
    assert remedy.proof == {"outcome": "proven", "words": "loss 2 -> 1"}
    own = json.loads((copy / "run.json").read_text())
    assert Report.from_json(own).to_json() == own  # the contract itself, written and read


def test_it_is_listed_and_followed(copy: Path) -> None:
    (run,) = list_runs(copy.parent)
    assert (run.steps, run.trainings, str(run.verdict), run.live) == (40, 1, "unstable", False)
    assert run.started is not None and run.started.year >= 2025 and run.problem is None
    follower = Follower(copy)
    assert follower.poll() and not follower.live and follower.ended
    assert len(follower.data.series["loss"]) == 40


def test_one_of_the_next_version_is_refused_with_what_to_do(copy: Path) -> None:
    with closing(sqlite3.connect(copy / "run.sqlite", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    with pytest.raises(RecordError, match=f"schema {SCHEMA + 1}.*pip install --upgrade surefoot"):
        read_run(copy)
    with pytest.raises(RecordError, match="pip install --upgrade surefoot"):
        Follower(copy).poll()
    (run,) = list_runs(copy.parent)
    assert "pip install --upgrade surefoot" in (run.problem or "")


def make(folder: Path) -> None:
    """Write such a folder with the version at hand."""
    from record_fixture import REPORT, TABLE
    from surefoot.record import Writer
    from surefoot.record.data import Event
    from surefoot.signals.flow import Call, Flow, TensorStats

    folder.mkdir(parents=True)
    writer = Writer(folder, {"argv": ["train.py", "--lr", "0.1"], "device": "cpu"})
    writer.declare(0, TABLE, {"loss": 1, "gradient": 5, "update_ratio": 1})
    for step in range(40):
        row = {"loss": np.array([1 / (1 + step) if step < 39 else np.nan])}
        row["gradient"] = step * np.array([2.0, 1.0, 1.0, 0.0, 0.0])
        if step % 8 == 0:
            row["update_ratio"] = np.array([float(step)])
        writer.put(0, step, row)
    writer.flow(0, Flow(4, [Call(1, 0, output=TensorStats(1.5, 2.0, 0.0, 0, 0, 4))]))
    writer.event(0, Event(39, "alarm", {"kind": "nonfinite", "parameters": [0]}))
    from dataclasses import replace

    report = replace(REPORT, steps=40)
    writer.report(0, report)
    writer.close(report)
    (folder / "proof.json").write_text(json.dumps(PROOF, indent=1) + "\n")
    with closing(sqlite3.connect(folder / "run.sqlite", isolation_level=None)) as connection:
        process = json.dumps({"host": "elsewhere", "pid": 1, "begun": "1"})
        connection.execute("UPDATE run SET value = ? WHERE name = 'process'", (process,))
        connection.execute("VACUUM")
    digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    folder.with_name(f"{folder.name}.json").write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    make(FOLDER.with_name(f"run_v{SCHEMA}"))
