"""bfloat16 where the program has float16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from surefoot.remedies.precision.cast import converted, device_of, recast
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment


class BFloat16(Treatment):
    """Autocast to bfloat16 instead of float16 inside the model, and parameters likewise."""

    name = "dtype.bfloat16"
    why = "has the range of float32 and needs no loss scale"
    guarantee = "nothing between 1e-38 and 3e38 underflows or overflows inside the model"
    formula = "8 bits of exponent, as float32 has; 8 of precision, where float16 has 11"
    source = "Kalamkar et al. 2019, arXiv 1905.12322"
    limits = (
        "on GPUs without it, before compute capability 8.0",
        "where three more bits of precision are needed, as in sums of many small updates",
        "where the numbers grow beyond float32 as well",
    )
    conflicts: ClassVar[Mapping[str, Any]] = {
        "dtype.float32": "both say in what format the model computes",
        "amp.master_weights": "both say in what format the model computes",
        "amp.grad_scaler": "bfloat16 needs no loss scale",
    }

    def apply(self, subject: Subject) -> None:
        """Replace the format. Raises NotApplicable on a GPU that has none."""
        if not subject.models:
            raise NotApplicable("no model is known")
        devices = {device_of(model) for model in subject.models}
        if "cuda" in devices and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise NotApplicable("this GPU has no bfloat16")
        for model in subject.models:
            subject.wrap(model, _instead(device_of(model)))
        recast(subject, subject.models, (torch.float16,), torch.bfloat16)

    def code(self) -> str:
        """Itself as code to paste."""
        return "with torch.autocast(device_type, dtype=torch.bfloat16): ..."


def _instead(device: str) -> Any:
    def around(inner: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = converted((args, kwargs), (torch.float16,), torch.bfloat16)
        if not torch.is_autocast_enabled(device):
            return inner(*args, **kwargs)
        given = torch.get_autocast_dtype(device)
        dtype = torch.bfloat16 if given == torch.float16 else given
        # The program's own context may have a weight in float16 in its cache.
        with torch.autocast(device, dtype=dtype, cache_enabled=False):
            return inner(*args, **kwargs)

    return around
