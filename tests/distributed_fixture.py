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
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).parents[1] / "src"
SECONDS = 60


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
        programs = [
            subprocess.Popen(
                [sys.executable, __file__, module, function, f"{folder}/{rank}"],
                env=environment() | world | {"RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(size)
        ]
        try:
            printed = [program.communicate(timeout=SECONDS)[0] for program in programs]
        finally:
            for program in programs:
                program.kill()
        for rank, program in enumerate(programs):
            assert program.returncode == 0, f"rank {rank}:\n{printed[rank]}"
        return [torch.load(f"{folder}/{rank}", weights_only=False) for rank in range(size)]


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
