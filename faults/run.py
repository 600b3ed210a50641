"""Run one training, in one process or in two, and tell what became of it."""

from __future__ import annotations

import io
import pickle
import tempfile
import time
import warnings
import zlib
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from faults import Job, Outcome
from faults.faults import FAULTS, Fault
from faults.guards import GUARDS
from faults.task import TASKS, accuracy, optimizer, train

_PATIENCE = timedelta(seconds=60)  # of one process with the other


def run(job: Job) -> Outcome:
    """Train; whatever is raised is part of the outcome."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    fault = FAULTS[job.fault]
    if fault.ranks > 1:
        return _in_ranks(job, fault.ranks)
    torch.manual_seed(job.seed)
    return _followed(job, fault, TASKS[fault.task].model(), job.seed)


def _followed(job: Job, fault: Fault, model: nn.Module, seed: int) -> Outcome:
    begin = time.perf_counter()
    task = TASKS[fault.task]
    guard = GUARDS[job.guard](model, optimizer(task, job.optimizer, model))
    trail: list[int] = []
    acted = halted = failed = None
    quiet = io.StringIO()
    with redirect_stdout(quiet), redirect_stderr(quiet):
        try:
            for step in train(model, task, guard, fault, seed):
                trail.append(checksum(model))
                if acted is None and guard.acts():
                    acted = step
        except Exception as error:
            halted = guard.halt(error)
            failed = None if halted else f"{type(error).__name__}: {error}"
        acts, told = guard.acts(), guard.told()
        guard.remove()
    if acted is None and acts:
        acted = len(trail)
    left = accuracy(model, task.half)
    seconds = time.perf_counter() - begin
    return Outcome(job, left, halted, failed, tuple(trail), acted, acts, told, seconds)


def checksum(model: nn.Module) -> int:
    """Of all weights, to the bit."""
    weights = torch.cat([p.detach().view(-1) for p in model.parameters()])
    return zlib.crc32(weights.numpy().tobytes())


def _in_ranks(job: Job, ranks: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        try:
            mp.set_forkserver_preload(["faults.run", "torch._dynamo"])  # once for all runs
            mp.start_processes(_rank, (ranks, job, folder), ranks, start_method="forkserver")
            mine, *others = (
                pickle.loads(Path(folder, str(rank)).read_bytes()) for rank in range(ranks)
            )
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            seconds = time.perf_counter() - begin
            return Outcome(job, float("nan"), None, words, (), None, 0, (), seconds)
    if any((o.trail, o.halted) != (mine.trail, mine.halted) for o in others):
        return replace(mine, failed="the processes do not agree")
    return mine


def _rank(rank: int, ranks: int, job: Job, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks, timeout=_PATIENCE
    )
    fault = FAULTS[job.fault]
    if rank == 0:  # the data of the others are bad
        fault = replace(fault, batch=Fault("").batch)
    torch.manual_seed(job.seed)
    model = DistributedDataParallel(TASKS[fault.task].model())
    outcome = _followed(job, fault, model, ranks * job.seed + rank)
    Path(folder, str(rank)).write_bytes(pickle.dumps(outcome))
    dist.barrier()
    dist.destroy_process_group()
