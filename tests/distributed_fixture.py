"""Small worlds for the tests of several processes: each rank runs one function of a test's file.

Processes of their own, gloo on this machine, a free port, a limit on the time. What the function
returns on each rank comes back as a list, rank by rank.
"""

from __future__ import annotations

import datetime
import importlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).parents[1] / "src"
SECONDS = 110


def environment() -> dict[str, str]:
    """That of a process in which surefoot is the one under test, and one thread is enough."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TORCHELASTIC"))}
    path = os.pathsep.join([str(SOURCE), str(Path(__file__).parent)])
    return kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def on_ranks(size: int, module: str, function: str) -> list[Any]:
    """What `module.function(rank, size)` returns on each of `size` ranks.

    Fails with what a rank has printed if it does not end well within SECONDS.
    """
    world = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(size),
    }
    with tempfile.TemporaryDirectory() as folder:
        programs = []
        for rank in range(size):
            command = [sys.executable, __file__, module, function, f"{folder}/{rank}"]
            own = environment() | world | {"RANK": str(rank)}
            with Path(folder, f"{rank}.txt").open("w") as out:
                made = subprocess.Popen(command, env=own, stdout=out, stderr=subprocess.STDOUT)
            programs.append(made)
        _end_together(programs)
        for rank, program in enumerate(programs):
            printed = Path(folder, f"{rank}.txt").read_text()
            assert program.returncode == 0, f"rank {rank}:\n{printed}"
        return [torch.load(f"{folder}/{rank}", weights_only=False) for rank in range(size)]


def _end_together(programs: list[subprocess.Popen[bytes]]) -> None:
    """Wait for all to end; where one fails the others would wait for it: they are ended."""
    end = time.monotonic() + SECONDS
    while any(program.poll() is None for program in programs):
        if any(program.returncode for program in programs) or time.monotonic() > end:
            for program in programs:
                program.kill()
        time.sleep(0.05)


def _main(module: str, function: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=SECONDS))
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    found = getattr(importlib.import_module(module), function)(rank, size)
    torch.save(found, out)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _main(*sys.argv[1:])
