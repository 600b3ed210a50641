"""What is handed to users: the wheel and the source distribution, in environments of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [pytest.mark.zoo, pytest.mark.timeout(600)]
KERNEL = (
    "from surefoot.kernels import kernel_name, kernel_reason as why; print(kernel_name(), why())"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the project's own command has built into."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([ROOT / "dev", "build", str(folder)], check=True, cwd=ROOT)
    return folder


def wheel_in(folder: Path) -> Path:
    (wheel,) = folder.glob("*.whl")
    return wheel


def environment(folder: Path, borrowed: bool) -> Path:
    """The Python of a new environment: empty, or with what this one has but for surefoot."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if borrowed:
        here = Path(pytest.__file__).parents[1]
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "borrowed.pth").write_text(f"{here}\n", encoding="utf-8")
    return folder / "bin" / "python"


def pip(python: Path, *words: str, **variables: str) -> str:
    constraints = f"file://{ROOT}/constraints.txt"
    settings = {**os.environ, "PIP_CONSTRAINT": constraints, **variables}
    command = [str(python), "-m", "pip", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def says(python: Path, code: str, where: Path) -> str:
    command = [str(python), "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=where, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="manylinux is for Linux")
def test_the_wheel_is_for_any_linux_and_any_python(built: Path) -> None:
    wheel = wheel_in(built)
    assert "-py3-none-manylinux" in wheel.name and "2_17" in wheel.name
    held = zipfile.ZipFile(wheel).namelist()
    libraries = [name for name in held if name.endswith(".so")]
    assert libraries == ["surefoot/kernels/_native.so"]
    assert "surefoot/py.typed" in held
    for part in ("views/templates/report.css", "page/templates/base.html.j2", "page/static/run.js"):
        assert f"surefoot/{part}" in held
    assert not [name for name in held if name.startswith(("tests", "corpus", "faults"))]


def test_the_wheel_works_in_an_empty_environment(built: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "empty", borrowed=False)
    pip(python, "install", "-q", str(wheel_in(built)), "torch==2.13.0")
    assert says(python, KERNEL, tmp_path).startswith("native")
    script = tmp_path / "train.py"
    script.write_text(
        "import torch\n"
        "model = torch.nn.Linear(4, 1)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.01)\n"
        "for _ in range(40):\n"
        "    optimizer.zero_grad()\n"
        "    model(torch.ones(8, 4)).square().mean().backward()\n"
        "    optimizer.step()\n",
        encoding="utf-8",
    )
    command = [python.parent / "surefoot", "run", "--json", "out.json", "train.py"]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert json.loads((tmp_path / "out.json").read_text("utf-8"))["verdict"] == "healthy"


def test_the_source_installs_without_a_compiler(built: Path, tmp_path: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    python = environment(tmp_path / "bare", borrowed=True)
    nowhere = str(tmp_path / "no-compiler")
    pip(python, "install", "-q", "--no-deps", str(source), CC=nowhere, CXX=nowhere)
    told = says(python, KERNEL, tmp_path)
    assert told.startswith("eager") and "not built" in told
    assert "bare" in says(python, "import surefoot; print(surefoot.__file__)", tmp_path)


@pytest.mark.parametrize("version", ["2.6.0", "2.13.0+cu130", "2.15.1"])
def test_torch_stays_as_it_is(built: Path, tmp_path: Path, version: str) -> None:
    """pip moves what is installed only where it does not do: torch of all these versions does."""
    python = environment(tmp_path / "with-torch", borrowed=False)
    (site,) = (tmp_path / "with-torch").glob("lib/python*/site-packages")
    here = site / f"torch-{version}.dist-info"
    here.mkdir()
    (here / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n", encoding="utf-8"
    )
    (here / "RECORD").write_text("", encoding="utf-8")
    (here / "INSTALLER").write_text("pip\n", encoding="utf-8")
    pip(python, "install", "-q", "--no-deps", str(wheel_in(built)))
    command = [str(python), "-m", "pip", "check"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert "surefoot 0.1.0 requires numpy, which is not installed" in told
    assert "torch" not in told  # it has what it asks for: pip has no reason to move it


def test_the_least_version_of_torch_is_asked_for(built: Path) -> None:
    with zipfile.ZipFile(wheel_in(built)) as held:
        (name,) = [n for n in held.namelist() if n.endswith("METADATA")]
        asked = held.read(name).decode().splitlines()
    assert "Requires-Dist: torch>=2.6" in asked
