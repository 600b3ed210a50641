"""A record as a table: every number is there, as it is, and no file is lost for it."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import surefoot
from cli_fixture import ENVIRONMENT
from outputs_fixture import build, step
from record_fixture import REPORT, TABLE, noise, wait_until
from surefoot.cli import cli
from surefoot.integrations.export import COLUMNS, KINDS, export
from surefoot.layers import Kind, Layer, LayerTable, Parameter
from surefoot.record import RecordError, Writer, read_run
from surefoot.signals import QUANTITIES

Row = dict[str, Any]


def table(path: Path) -> list[Row]:
    """The file's rows, read by the libraries that others would use."""
    if path.suffix == ".csv":
        with open(path, encoding="utf-8", newline="") as file:
            found: list[Row] = list(csv.DictReader(file))
        for row in found:
            row |= {k: int(row[k]) for k in ("training", "step", "rows")}
            row |= {k: float(row[k]) for k in ("low", "high", "last")}
        return found
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(path).to_pylist()


def series_of(rows: list[Row], quantity: str) -> dict[str, np.ndarray]:
    """steps [T], and low, high and last [T, C] of a quantity, in the order of the file."""
    own = [row for row in rows if row["quantity"] == quantity]
    steps = list(dict.fromkeys(row["step"] for row in own))
    made = {
        part: np.array([row[part] for row in own]).reshape(len(steps), -1)
        for part in ("low", "high", "last")
    }
    return {"steps": np.array(steps), **made}


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
    return request.param


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The folder of a run of 30 steps, two of them not finite."""
    model, optimizer = build()
    with surefoot.watch(model, optimizer, runs=tmp_path / "runs") as watch:
        for k in range(30):
            step(model, optimizer, math.nan if k > 27 else 1.0)
    assert watch.folder is not None
    return watch.folder


def written(folder: Path, families: dict[str, int], layers: LayerTable = TABLE) -> Writer:
    folder.mkdir(parents=True)
    writer = Writer(folder, {})
    writer.declare(0, layers, families)
    return writer


def test_every_number_of_a_run(trained: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"table{kind}"
    count = export(trained, path)
    rows, data = table(path), read_run(trained)
    assert len(rows) == count == sum(s.last.size for s in data.series.values())
    assert {row["quantity"] for row in rows} == data.series.keys()
    for name, series in data.series.items():
        got = series_of(rows, name)
        assert got["steps"].tolist() == series.steps.tolist()
        for part in ("low", "high", "last"):
            np.testing.assert_array_equal(got[part].astype(np.float32), getattr(series, part))
    assert all(tuple(row) == COLUMNS for row in rows)
    assert {row["rows"] for row in rows} == {1}


def test_each_number_has_its_names(trained: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"table{kind}"
    export(trained, path)
    layers = read_run(trained).layers
    first = [row for row in table(path) if row["step"] == 0]
    gradient = [row for row in first if row["quantity"] == "gradient"]
    statistics = QUANTITIES["gradient"].statistics
    assert [(r["parameter"], r["layer"], r["statistic"]) for r in gradient] == [
        (p.name, layers.title(p.layer), s) for p in layers.parameters for s in statistics
    ]
    (loss,) = (row for row in first if row["quantity"] == "loss")
    assert (loss["layer"], loss["parameter"], loss["statistic"]) == ("", "", "loss")
    (rate,) = (row for row in first if row["quantity"] == "learning_rate")
    assert (rate["statistic"], rate["last"]) == ("lr.0", pytest.approx(0.01))


def test_thinned_and_not_measured(tmp_path: Path, kind: str) -> None:
    """Buckets of several steps keep their extremes; NaN and infinity are what they were."""
    rows = noise(6000, 64)
    folder = tmp_path / "run"
    folder.mkdir()
    writer = Writer(folder, {}, limit_bytes=1 << 20)
    writer.declare(0, TABLE, {"numbers": 64})
    for k, row in enumerate(rows):
        writer.put(0, k, {"numbers": row} if k % 7 else {})
    writer.close(REPORT)
    path = tmp_path / f"table{kind}"
    export(folder, path)
    found = table(path)
    series = read_run(folder, buckets=100_000).series["numbers"]
    got = series_of(found, "numbers")
    assert got["steps"].tolist() == series.steps.tolist()
    for part in ("low", "high", "last"):
        np.testing.assert_array_equal(got[part].astype(np.float32), getattr(series, part))
    assert max(row["rows"] for row in found) > 1
    assert np.nanmax(got["high"]) == math.inf
    assert np.nanmin(got["low"]) == -math.inf
    assert np.isnan(got["last"]).any()
    assert {row["statistic"] for row in found} == {str(k) for k in range(64)}


def test_all_trainings_of_a_run(tmp_path: Path, kind: str) -> None:
    writer = written(tmp_path / "run", {"loss": 1})
    writer.declare(3, TABLE, {"loss": 1})
    writer.put(0, 0, {"loss": np.array([1.0])})
    writer.put(3, 0, {"loss": np.array([2.0])})
    writer.close(REPORT)
    path = tmp_path / f"table{kind}"
    export(tmp_path / "run", path)
    assert [(row["training"], row["last"]) for row in table(path)] == [(0, 1.0), (3, 2.0)]


def test_no_step(tmp_path: Path, kind: str) -> None:
    writer = written(tmp_path / "run", {"loss": 1})
    writer.close(REPORT)
    path = tmp_path / f"table{kind}"
    assert export(tmp_path / "run", path) == 0
    assert table(path) == []
    if kind == ".csv":
        assert path.read_text().splitlines() == [",".join(COLUMNS)]


def test_a_live_run(tmp_path: Path, kind: str) -> None:
    writer = written(tmp_path / "run", {"loss": 1})
    try:
        for k in range(5):
            writer.put(0, k, {"loss": np.array([float(k)])})
        path = tmp_path / f"table{kind}"
        wait_until(lambda: export(tmp_path / "run", path, force=True) == 5)
        assert [row["last"] for row in table(path)] == [0, 1, 2, 3, 4]
    finally:
        writer.close(REPORT)


HOSTILE = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", 'a"b', "a,b", "＝1", "naïve ✓", "fc"]


def hostile(folder: Path) -> Path:
    """A run whose layers have the names of attacks."""
    layers = [Layer("", "Net", Kind.CONTAINER, None, False)]
    layers += [Layer(name, "Linear", Kind.LINEAR, 0, True) for name in HOSTILE]
    parameters = [
        Parameter(f"{name}.weight", k, (1,), "float32", 1) for k, name in enumerate(HOSTILE, 1)
    ]
    table_of = LayerTable("Net", tuple(layers), tuple(parameters))
    writer = written(folder, {"update_ratio": len(HOSTILE)}, table_of)
    writer.put(0, 0, {"update_ratio": np.arange(len(HOSTILE), dtype=np.float64)})
    writer.close(REPORT)
    return folder


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    export(hostile(tmp_path / "run"), tmp_path / "t.csv")
    cells = [(row["layer"], row["parameter"]) for row in table(tmp_path / "t.csv")]
    marked = {"=", "+", "-", "@", "＝"}
    assert cells == [
        (f"'{name}", f"'{name}.weight") if name[0] in marked else (name, f"{name}.weight")
        for name in HOSTILE
    ]


def test_parquet_keeps_names_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    export(hostile(tmp_path / "run"), tmp_path / "t.parquet")
    assert [row["layer"] for row in table(tmp_path / "t.parquet")] == HOSTILE


def test_parquet_has_few_groups_of_rows(trained: Path, tmp_path: Path) -> None:
    """A group for each quantity and piece would make a file that is slow to read."""
    parquet = pytest.importorskip("pyarrow.parquet")
    count = export(trained, tmp_path / "t.parquet")
    assert parquet.ParquetFile(tmp_path / "t.parquet").num_row_groups <= 1 + count // (1 << 18)


class TestNothingIsLost:
    """What is there already stays, and half a file never is."""

    def test_a_file_that_is_there(self, trained: Path, tmp_path: Path, kind: str) -> None:
        path = tmp_path / f"mine{kind}"
        path.write_text("precious")
        with pytest.raises(FileExistsError, match="is there already, and is left as it is"):
            export(trained, path)
        assert path.read_text() == "precious"
        assert export(trained, path, force=True) == len(table(path))

    def test_a_failure_in_the_middle(
        self, trained: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / f"mine{kind}"
        path.write_text("precious")

        def broken(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("surefoot.integrations.export.blob.unpack", broken)
        with pytest.raises((OSError, RecordError), match="No space left"):
            export(trained, path, force=True)
        assert path.read_text() == "precious"
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []

    def test_a_full_disk_is_not_the_folders_fault(self, trained: Path, tmp_path: Path) -> None:
        """A limit on a file's size is as a disk that is full."""
        code = (
            "import resource, signal, sys; from surefoot.cli import main;"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); main()"
        )
        path = tmp_path / "t.csv"
        done = subprocess.run(
            [sys.executable, "-c", code, "export", str(trained), "-o", str(path)],
            env=ENVIRONMENT, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"Error: cannot write {path}: File too large\n"
        assert os.listdir(tmp_path) == ["runs"]


class TestCommand:
    def invoke(self, *words: Any) -> Any:
        return CliRunner().invoke(cli, ["export", *map(str, words)])

    def test_it_says_how_much(self, trained: Path, tmp_path: Path, kind: str) -> None:
        path = tmp_path / f"deep/down/table{kind}"
        result = self.invoke(trained, "-o", path)
        assert (result.exit_code, result.output) == (0, f"{path}: {len(table(path)):,} rows\n")

    def test_errors_in_words(self, trained: Path, tmp_path: Path) -> None:
        (tmp_path / "there.csv").write_text("precious")
        (tmp_path / "folder.csv").mkdir()
        empty = tmp_path / "empty"
        empty.mkdir()
        for words, status, message in (
            ((trained, "-o", tmp_path / "t.xlsx"), 2, "ends in .csv or .parquet"),
            ((trained,), 2, "Missing option '-o'"),
            ((empty, "-o", tmp_path / "t.csv"), 1, "expected a run folder with run.sqlite"),
            ((tmp_path / "none", "-o", tmp_path / "t.csv"), 1, "expected a run folder"),
            ((trained, "-o", tmp_path / "there.csv"), 1, "Next: another name, or --force"),
            ((trained, "-o", tmp_path / "folder.csv"), 1, "cannot write"),
            ((trained, "-o", tmp_path / "there.csv" / "t.csv"), 1, "cannot write"),
        ):
            result = self.invoke(*words)
            assert (result.exit_code, message in result.output) == (status, True), result.output
            assert "Traceback" not in result.output
        assert (tmp_path / "there.csv").read_text() == "precious"

    def test_a_damaged_record(self, trained: Path, tmp_path: Path) -> None:
        file = trained / "run.sqlite"
        file.write_bytes(file.read_bytes()[:-5000])
        result = self.invoke(trained, "-o", tmp_path / "t.csv")
        assert result.exit_code == 1
        assert "damaged" in result.output
        assert not (tmp_path / "t.csv").exists()

    def test_without_pyarrow(
        self, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        result = self.invoke(trained, "-o", tmp_path / "t.parquet")
        assert result.exit_code == 1
        assert "pip install 'surefoot[export]'" in result.output


@pytest.mark.zoo
def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    """16 times the steps, in a process of its own each."""
    peaks = []
    for steps in (500, 8_000):
        writer = written(tmp_path / str(steps), {"numbers": 64})
        row = np.arange(64, dtype=np.float32)
        for k in range(steps):
            writer.put(0, k, {"numbers": row})
        writer.close(REPORT)
        code = (
            "import resource, sys; from surefoot.integrations.export import export;"
            "count = export(*sys.argv[1:]);"
            "print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        words = [str(tmp_path / str(steps)), str(tmp_path / f"{steps}.csv")]
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            env=ENVIRONMENT, capture_output=True, text=True, timeout=100, check=True,
        )  # fmt: skip
        count, peak = map(int, done.stdout.split())
        assert count == steps * 64
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 60_000  # KiB; half a million rows of Python are 200 MB
