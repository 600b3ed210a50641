"""`surefoot run` with nothing faked: torch itself, the real session and the real views."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli_fixture import ENVIRONMENT
from surefoot.findings import Report

REAL = """
import sys, torch
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
adam = torch.optim.Adam(model.parameters())
for step in range(10**9):
    x = torch.randn(16, 4)
    adam.zero_grad()
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    loss.backward()
    adam.step()
    if step < 20:
        print(float(loss).hex(), flush=True)
    if step == 20 and "short" in sys.argv:
        sys.exit(4)
"""

WORKERS = """
import torch
from torch.utils.data import DataLoader, Dataset
torch.set_num_threads(1)
class Squares(Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return torch.tensor([float(i) ** 2]), __name__
if __name__ == "__main__":
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-4)
    for how in ("fork", "spawn"):
        for x, names in DataLoader(Squares(), 4, True, num_workers=2, multiprocessing_context=how):
            sgd.zero_grad()
            model(x).square().mean().backward()
            sgd.step()
            print(x.tolist(), names, float(model.weight).hex())
"""


class TestReal:
    """With torch, the real session and the real views: that the pieces fit."""

    def both(self, folder: Path, source: str, *words: str) -> list[tuple[int, str, str]]:
        """What python and surefoot make of the script."""
        (folder / "train.py").write_text(source)
        return [
            (done.returncode, done.stdout, done.stderr)
            for command in ([], ["-m", "surefoot", "run", "--json", "r.json"])
            for done in [
                subprocess.run(
                    [sys.executable, *command, "train.py", *words],
                    cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=100,
                )
            ]
        ]  # fmt: skip

    def test_same_numbers_and_a_verdict(self, tmp_path: Path) -> None:
        python, ours = self.both(tmp_path, REAL, "short")
        assert ours[:2] == python[:2]
        assert python[0] == 4
        report = Report.from_json(json.loads((tmp_path / "r.json").read_text()))
        assert report.steps == 21
        assert str(report.verdict).upper() in ours[2]
        (folder,) = (tmp_path / "runs").iterdir()
        assert {"report.html", "run.json", "run.sqlite"} <= {p.name for p in folder.iterdir()}

    def test_interrupt(self, tmp_path: Path) -> None:
        (tmp_path / "train.py").write_text(REAL)
        with subprocess.Popen(
            [sys.executable, "-m", "surefoot", "run", "--json", "r.json", "train.py"],
            cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None
                for _ in range(20):
                    assert process.stdout.readline()
                process.send_signal(signal.SIGINT)
                err = process.communicate(timeout=60)[1].decode()
            finally:
                process.kill()
        assert process.returncode == -signal.SIGINT
        traceback, _, rest = err.partition("KeyboardInterrupt\n")
        assert "src/surefoot" not in traceback
        report = Report.from_json(json.loads((tmp_path / "r.json").read_text()))
        assert report.steps >= 20
        assert str(report.verdict).upper() in rest

    @pytest.mark.slow
    def test_workers_of_a_data_loader(self, tmp_path: Path) -> None:
        python, ours = self.both(tmp_path, WORKERS)
        assert ours[:2] == python[:2]
        assert python[1].count("__mp_main__") == 2 * 4
        report = Report.from_json(json.loads((tmp_path / "r.json").read_text()))
        assert report.steps == 4
