"""What a run ran on: versions, device and kernel, as plain values for the record."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from typing import Any

import torch

from surefoot.kernels import kernel_name, kernel_reason
from surefoot.version import VERSION


def describe() -> dict[str, Any]:
    """Versions, machine, kernel and start time, for the record and the report's last section."""
    return {
        "surefoot": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "kernel": kernel_name(),
        "kernel_reason": kernel_reason(),
        "argv": list(sys.argv),
        "cwd": os.getcwd(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
