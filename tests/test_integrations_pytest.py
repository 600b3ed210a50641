"""The pytest plugin and `surefoot.testing`, as a project's own tests meet them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cli_fixture import ENVIRONMENT
from surefoot.build import BuildError
from surefoot.testing import assert_healthy

ROOT = Path(__file__).resolve().parents[1]


def sigmoids() -> nn.Module:
    """Ten sigmoid layers, whose gradients vanish."""
    torch.manual_seed(0)
    layers = [m for _ in range(10) for m in (nn.Linear(64, 64), nn.Sigmoid())]
    return nn.Sequential(*layers, nn.Linear(64, 2))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(64, 64), torch.randint(2, (64,))


class TestFunction:
    def test_a_sound_model_passes(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
        before = [p.clone() for p in model.parameters()]
        found = assert_healthy(model, batch(), nn.CrossEntropyLoss())
        assert found.verdict == "healthy"
        assert all(map(torch.equal, before, model.parameters()))
        assert all(p.grad is None for p in model.parameters())

    def test_an_unsound_one_says_why(self) -> None:
        import surefoot

        check = surefoot.check(sigmoids(), batch(), nn.CrossEntropyLoss())
        first = check.findings[0]
        with pytest.raises(AssertionError) as caught:
            assert_healthy(sigmoids(), batch(), nn.CrossEntropyLoss())
        text = str(caught.value)
        assert text.startswith(f"{first.severity} {first.rule} at {first.layer}: ")
        assert first.sentence.rstrip(".") in text
        assert all(e.quantity in text for e in first.evidence)
        assert f"remedy: {first.remedies[0].remedy}" in text
        assert first.remedies[0].code.splitlines()[0] in text
        assert f"ignore=['{first.rule}'] mutes it" in text

    def test_what_is_ignored(self) -> None:
        rules: list[str] = []
        for _ in range(10):
            try:
                assert_healthy(sigmoids(), batch(), nn.CrossEntropyLoss(), ignore=rules)
                break
            except AssertionError as error:
                rules.append(str(error).split()[1])
        assert 1 <= len(rules) < 10

    def test_the_optimizer_is_judged_as_well(self) -> None:
        """A rate of ten thousand throws the loss out in its first steps."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
        assert_healthy(model, batch(), nn.CrossEntropyLoss())
        optimizer = torch.optim.SGD(model.parameters(), lr=1e4)
        with pytest.raises(AssertionError, match=r"^(fatal|harmful) SF"):
            assert_healthy(model, batch(), nn.CrossEntropyLoss(), optimizer)

    def test_parts_that_do_not_fit(self) -> None:
        with pytest.raises(BuildError):
            assert_healthy(sigmoids(), (torch.ones(4, 3), torch.ones(4)), nn.CrossEntropyLoss())


MODEL = """
import torch
from torch import nn

def parts(activation):
    torch.manual_seed(0)
    layers = [m for _ in range(10) for m in (nn.Linear(64, 64), activation())]
    return nn.Sequential(*layers, nn.Linear(64, 2)), (torch.randn(64, 64), torch.ones(64).long())
"""
TESTS = """
from torch import nn
from model import parts

def test_vanishing(assert_healthy):
    assert_healthy(*parts(nn.Sigmoid), nn.CrossEntropyLoss())
"""


def run(folder: Path, *words: str, path: str = "", under: tuple[str, ...] = ()) -> Any:
    """pytest of its own process in a project's folder; under: what runs it."""
    environment = {**ENVIRONMENT, "PYTEST_ADDOPTS": "-p no:cacheprovider"}
    environment["PYTHONPATH"] += f":{path}"
    return subprocess.run(
        [sys.executable, *under, "-m", "pytest", "-W", "error", *words],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=110,
    )  # fmt: skip


def installed(folder: Path) -> str:
    """What an installation leaves for pytest to find, in a folder for PYTHONPATH."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["pytest11"]
    assert points == {"surefoot": "surefoot.integrations.pytest"}
    told = folder / "site" / "surefoot_of_this_test-1.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text("Name: surefoot-of-this-test\nVersion: 1\n")
    lines = "".join(f"{name} = {module}\n" for name, module in points.items())
    (told / "entry_points.txt").write_text(f"[pytest11]\n{lines}")
    (told / "RECORD").write_text("surefoot/__init__.py,,\n")
    return str(told.parent)


class TestPlugin:
    def test_a_project_that_is_ill(self, tmp_path: Path) -> None:
        (tmp_path / "model.py").write_text(MODEL)
        (tmp_path / "test_model.py").write_text(TESTS)
        done = run(tmp_path, path=installed(tmp_path))
        assert done.returncode == 1, done.stdout + done.stderr
        assert "1 failed" in done.stdout
        assert "E       AssertionError: harmful SF101 at 16: " in done.stdout
        assert "E       remedy: " in done.stdout
        assert "testing.py" not in done.stdout  # the project's own line is shown

    def test_a_project_without_torch(self, tmp_path: Path) -> None:
        """Neither the plugin nor its fixture's presence imports anything heavy."""
        (tmp_path / "test_light.py").write_text(
            "import sys\n\n"
            "def test_light(request):\n"
            "    assert not {'torch', 'numpy', 'plotly', 'rich'} & sys.modules.keys()\n"
            "    assert 'surefoot.integrations.pytest' in sys.modules\n"
        )
        done = run(tmp_path, path=installed(tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr

    def test_the_entry_point_leads_there(self, tmp_path: Path) -> None:
        """As an installation declares it, and pytest finds it without a word."""
        done = run(tmp_path, "--fixtures", path=installed(tmp_path))
        assert "assert_healthy [session scope]" in done.stdout
        assert "surefoot.testing.assert_healthy(model, batch" in done.stdout

    def test_under_surefoot_run(self, tmp_path: Path) -> None:
        """surefoot is imported before pytest then, which is no reason to warn."""
        (tmp_path / "test_light.py").write_text("def test_light():\n    pass\n")
        under = ("-m", "surefoot", "run", "--no-record")
        done = run(tmp_path, path=installed(tmp_path), under=under)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 passed" in done.stdout
