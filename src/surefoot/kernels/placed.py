"""Passes over tensors on CUDA devices, alone and beside others on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch

from surefoot.kernels.availability import give_up, make_launcher, trouble
from surefoot.kernels.eager import EagerPass
from surefoot.kernels.launcher import Launcher
from surefoot.kernels.layout import PLAIN_TYPES, unwrapped
from surefoot.kernels.rows import Rows, capturing
from surefoot.kernels.statistics import Pass, check_out


class TritonPass:
    """Statistics by the Triton kernel: its launches, then one wait for the rows."""

    name = "triton"

    def __init__(self, launcher: Launcher, capacity: int) -> None:
        self._launcher = launcher
        self._busy = threading.Lock()
        self._rows = Rows.on(launcher.device, 1, max(capacity, 1))

    def __call__(self, tensors: Sequence[torch.Tensor | None], out: np.ndarray) -> None:
        """Fill `out`; see `Pass`. Whatever Triton raises comes through."""
        check_out(out, len(tensors))
        if not tensors:
            return
        if not self._busy.acquire(blocking=False):  # another thread's step, or a call in a call
            TritonPass(Launcher(self._launcher.device), len(tensors))(tensors, out)
            return
        try:
            if len(tensors) > self._rows.values.shape[1]:
                self._rows = Rows.on(self._launcher.device, 1, len(tensors))
            self._launcher.launch(tensors, self._rows)
            out[:] = self._rows.values[0, : len(tensors)].cpu().numpy()
        finally:
            self._busy.release()


class PlacedPass:
    """Gives tensors on a CUDA device to a pass of that device, all others to the host's pass.

    Raises:
        RuntimeError: such a tensor is asked for while a CUDA graph is captured.
    """

    def __init__(self, host: Pass, capacity: int) -> None:
        self._host = host
        self._capacity = capacity
        self._eager = EagerPass()
        self._devices: dict[torch.device, Pass] = {}

    @property
    def name(self) -> str:
        """The host's kernel, and "triton" where it has served."""
        served = {self._host.name: None} | {each.name: None for each in self._devices.values()}
        return "+".join(served)

    def __call__(self, tensors: Sequence[torch.Tensor | None], out: np.ndarray) -> None:
        """Fill `out`; see `Pass`."""
        if not torch.cuda.is_initialized():  # then no tensor can be there
            self._host(tensors, out)
            return
        check_out(out, len(tensors))
        plain = [_plain(tensor) for tensor in tensors]
        groups: dict[torch.device | None, list[int]] = {}
        for row, tensor in enumerate(plain):
            if tensor is not None:
                device = tensor.device
                groups.setdefault(device if device.type == "cuda" else None, []).append(row)
        if len(groups) <= 1:  # every pass knows what None means
            self._serve(next(iter(groups), None), plain, out)
            return
        out.fill(np.nan)
        for device, where in groups.items():
            rows = np.empty((len(where), out.shape[1]))
            self._serve(device, [plain[row] for row in where], rows)
            out[where] = rows

    def _serve(
        self, device: torch.device | None, tensors: Sequence[torch.Tensor | None], out: np.ndarray
    ) -> None:
        if device is None:
            self._host(tensors, out)
            return
        if capturing(device):  # before CUDA is asked for anything that would undo the capture
            raise RuntimeError("statistics cannot be waited for while a CUDA graph is captured")
        serving = self._pass_of(device)
        try:
            serving(tensors, out)
        except Exception as error:
            if serving is self._eager:
                raise
            give_up(error)
            self._eager(tensors, out)

    def _pass_of(self, device: torch.device) -> Pass:
        """Return the pass of a CUDA device, made when it is first needed."""
        if device not in self._devices:
            launches = make_launcher(device)
            if launches is not None:
                self._devices[device] = TritonPass(launches, self._capacity)
        serving = self._devices.get(device, self._eager)
        return serving if trouble() is None else self._eager


def _plain(tensor: torch.Tensor | None) -> torch.Tensor | None:
    if tensor is None or type(tensor) in PLAIN_TYPES:
        return tensor
    with torch.no_grad():
        return unwrapped(tensor)
