"""`surefoot run` of unchanged scripts in these modes: the same output to the bit, and a verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli_fixture import ENVIRONMENT
from surefoot.findings import Report
from zoo_fixture import mostly_zoo

SCRIPT = """
import sys, torch, warnings
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint
torch.set_num_threads(1)
torch.manual_seed(0)
mode = sys.argv[1]
model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 4))
if mode == "in backward":
    optimizers = {p: torch.optim.Adam([p], 1e-2) for p in model.parameters()}
    def act(p):
        optimizers[p].step()
        optimizers[p].zero_grad()
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(act)
else:
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, fused=mode == "scaled")
call = torch.compile(model, backend="aot_eager") if mode == "compiled" else model
if mode == "checkpointed":
    call = lambda x: checkpoint(model, x, use_reentrant=False)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, enabled=mode == "scaled")

@torch.compile(backend="aot_eager")
def whole(x, y):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()

for step in range(30):
    x = torch.randn(32, 8)
    y = x[:, :4].argmax(1)
    if mode == "whole step":
        loss = whole(x, y)
    else:
        loss = F.cross_entropy(call(x), y)
        scaler.scale(loss).backward()
        if mode != "in backward":
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    print(loss.item().hex())
print(scaler.get_scale(), dict(counters["stats"]), torch.rand(1).item())
"""


def run(folder: Path, mode: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command, "train.py", mode],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=200,
    )


MODES = ("compiled", "in backward", "whole step", "checkpointed", "scaled")


@pytest.mark.parametrize("mode", mostly_zoo(MODES, "compiled"))
def test_a_script_behaves_as_under_python(mode: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    plain = run(tmp_path, mode)
    watched = run(tmp_path, mode, "-m", "surefoot", "run", "--json", "report.json")
    assert plain.returncode == 0, plain.stderr
    assert (watched.returncode, watched.stdout) == (plain.returncode, plain.stdout)
    assert "surefoot: " not in watched.stderr  # nothing of its own went wrong
    report = Report.from_json(json.loads((tmp_path / "report.json").read_text()))
    assert report.steps == 30 and not report.findings
    assert report.verdict == ("inconclusive" if mode == "whole step" else "healthy")
