"""The Triton kernel without a device: interpreted on the CPU, and compiled for devices elsewhere.

Each in a process of its own: what TRITON_INTERPRET decides, it decides when Triton is imported.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from zoo_fixture import mostly_zoo

TESTS = Path(__file__).parent


def interpreter_takes_this_numpy() -> bool:
    if find_spec("triton") is None:
        return False
    newer = [int(part) for part in version("triton").split(".")[:2]] > [3, 2]
    return newer or [int(part) for part in version("numpy").split(".")[:2]] < [2, 3]


pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton is not installed: there are wheels for Linux only"
)

# With numpy 2.3 they pass under Triton 3.2 too (PyTorch 2.6), if its DeprecationWarning is let go.
outdated = pytest.mark.skipif(
    not interpreter_takes_this_numpy(),
    reason="Triton's interpreter makes an integer of an array of one element; numpy 2.4 refuses",
)


def run_python(
    arguments: list[str], cache: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TRITON_CACHE_DIR": str(cache), **variables}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=environment, cwd=TESTS.parent, capture_output=True, text=True, check=False
    )


def run_interpreted(cache: Path, *arguments: str) -> None:
    """Run tests in Triton's interpreter, on the kernel in the place of all others."""
    path = os.pathsep.join([str(TESTS), str(TESTS / "interpreted")])
    options = ["-n", "0", "-q", "-o", "addopts=", "-p", "interpreted", "-p", "no:cacheprovider"]
    done = run_python(
        ["-m", "pytest", *options, "--timeout", "600", *arguments],
        cache,
        TRITON_INTERPRET="1",
        PYTHONPATH=path,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@outdated
@pytest.mark.slow  # a minute; what is Triton's own below is quick
@pytest.mark.timeout(600)
def test_the_shared_tests_interpreted(tmp_path: Path) -> None:
    files = ["tests/test_kernels_statistics.py", "tests/test_kernels_promises.py"]
    # The interpreter keeps the program that runs in a global, so it serves one thread only; and two
    # thousand powers of two take it a minute: test_triton_tiles.py has those that matter.
    left_out = [
        f"{files[1]}::test_two_threads_may_share_a_pass",
        f"{files[0]}::test_all_halves_and_all_powers_of_two[dtype1-triton]",
    ]
    deselected = [f"--deselect={test}" for test in left_out]
    run_interpreted(tmp_path, "-k", "triton", *deselected, *files)


@pytest.mark.timeout(600)
@outdated
def test_tiles_and_ring_interpreted(tmp_path: Path) -> None:
    run_interpreted(tmp_path, "tests/interpreted", "tests/test_kernels_ring.py")


COMPILE = """
import sys
import torch
import triton
from triton.backends.compiler import GPUTarget
from surefoot.kernels import triton as code

class Elsewhere:  # a driver of a device that is not here
    def get_current_target(self):
        return GPUTarget("cuda", int(sys.argv[1]), 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

triton.runtime.driver.set_active(Elsewhere())
whole, real = (torch.zeros(8, dtype=dtype) for dtype in (torch.int64, torch.float64))
options = {"grid": (1,), "enable_fp_fusion": True}
for form in code.FORMATS:
    for sizes in ((3, 4, 0), (1, 1, 1), (16, 32, 16)):  # numbers that Triton likes to compile in
        owners = torch.zeros(8, dtype=torch.int32)
        compiled = code.read_tiles.warmup(
            whole, owners, real, *sizes, **form, num_warps=code.WARPS, **options
        )
    print("KERNEL", form["TILE"] // form["STRIP"], compiled.asm["ptx"])
    assert compiled.asm["cubin"]  # the assembler took it
if hasattr(code.read_tiles, "device_caches"):
    ((compiled_for, *_),) = code.read_tiles.device_caches.values()
else:  # Triton 3.2
    (compiled_for,) = code.read_tiles.cache.values()
assert len(compiled_for) == len(code.FORMATS), "compiled again for other sizes"
compiled = code.fold_tiles.warmup(
    whole, real, real, whole, whole, 3, 4, 2, 3, num_warps=4, **options
)
print("KERNEL", 0, compiled.asm["ptx"])
assert compiled.asm["cubin"]
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("capability", mostly_zoo([80, 90], 90))
def test_it_compiles_for_a_device_that_is_not_here(capability: int, tmp_path: Path) -> None:
    """To machine code, whose reading and arithmetic are as triton.py says."""
    done = run_python(["-c", COMPILE, str(capability)], tmp_path, TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr[-4000:]
    kernels = done.stdout.split("KERNEL ")[1:]
    assert len(kernels) == 5
    for kernel in kernels:
        strips, _, ptx = kernel.partition(" ")
        # One read of 16 bytes a strip where a tile is whole and aligned, and none where it is not.
        wide = re.findall(r"ld\.global\.v(?:4\.b32|2\.b64)", ptx)
        assert len(wide) == len(re.findall(r"ld\.global\.v", ptx)) == int(strips)
        assert bool(wide) == bool(re.search(r"and\.b64\s+%rd\d+, %rd\d+, 15;", ptx))
        assert ".ftz" not in ptx  # subnormals are not taken for zeros
        assert ".approx" not in ptx
        assert not re.search(r"\b(add|mul|fma)\.(rn\.)?f(16|32)\b", ptx)  # float64 only
