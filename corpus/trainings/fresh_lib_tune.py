"""Fine-tuning as the tutorials of transformers have it: dicts of inputs, the model's own loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from corpus.data import batches
from corpus.recipes import Optimizer, Poison, Surgery, adamw, same_batch, untouched
from corpus.trainings.fit import JUDGED, Build, autocast
from corpus.trainings.tasks import Task, measure

Feed = Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]


def labelled(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Token ids with an attention mask over what is padded with zeros."""
    return dict(input_ids=x, attention_mask=(x != 0).long(), labels=y)


def unmasked(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Token ids and labels without a mask."""
    return dict(input_ids=x, labels=y)


def written(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """A causal model shifts the labels itself."""
    return dict(input_ids=x, labels=x)


def pictured(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pixels and labels."""
    return dict(pixel_values=x, labels=y)


def sounded(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Samples of sound and labels."""
    return dict(input_values=x, labels=y)


def decay_groups(decay: float = 0.01) -> Callable[[nn.Module], list[dict[str, Any]]]:
    """No weight decay on biases and norms."""

    def groups(model: nn.Module) -> list[dict[str, Any]]:
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        plain = [p for n, p in named if p.dim() < 2 or "norm" in n.lower()]
        known = {id(p) for p in plain}
        rest = [p for _, p in named if id(p) not in known]
        groups = [dict(params=rest, weight_decay=decay), dict(params=plain, weight_decay=0.0)]
        return [g for g in groups if g["params"]]

    return groups


def warmed(kind: str, warm: int, total: int) -> Callable[[int], float]:
    """Linear warm-up, then linear or cosine decay to zero, or constant."""

    def share(step: int) -> float:
        if step < warm:
            return (step + 1) / max(1, warm)
        if kind == "constant":
            return 1.0
        done = min(1.0, (step - warm) / max(1, total - warm))
        return 1 - done if kind == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    return share


def finetune(
    seed: int,
    *,
    task: Callable[[], Task],
    model: Build,
    feed: Feed = labelled,
    optimizer: Optimizer = adamw(2e-3),
    groups: Callable[[nn.Module], Iterable[Any]] = decay_groups(),
    plan: str = "linear",
    warm: int = 10,
    total: int | None = None,
    steps: int = 100,
    batch: int = 16,
    clip: float | None = 1.0,
    accumulate: int = 1,
    factor: float = 1.0,
    zero: bool = True,
    surgery: Surgery = untouched,
    late: Surgery = untouched,
    poison: Poison = same_batch,
    scale_input: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    dtype: torch.dtype = torch.float32,
    mixed: torch.dtype | None = None,
) -> float:
    """Train; late: surgery when the optimizer holds the parameters already; total: of the plan."""
    torch.manual_seed(seed)
    data = task()
    net = model(data)
    surgery(net)
    net.to(dtype)
    motor = optimizer(groups(net))
    late(net)
    schedule = LambdaLR(motor, warmed(plan, warm, total or steps))
    net.train()
    x = scale_input(data.x)
    x = x.to(dtype) if x.is_floating_point() else x
    motor.zero_grad()
    for count, pair in enumerate(batches(x, data.y, batch, steps * accumulate, seed)):
        xb, yb = poison(count // accumulate, *pair)
        with autocast(mixed):
            loss = net(**feed(xb, yb)).loss
        (factor * loss / accumulate).backward()
        if (count + 1) % accumulate:
            continue
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        motor.step()
        schedule.step()
        if zero:
            motor.zero_grad()
    return judged(net, feed, data, x)


def judged(net: nn.Module, feed: Feed, data: Task, x: torch.Tensor) -> float:
    """The error share of the first samples without dropout."""
    net.eval()
    with torch.no_grad():
        inputs = feed(x[:JUDGED], data.y[:JUDGED])
        if "decoder_input_ids" not in inputs and getattr(net.config, "is_encoder_decoder", False):
            logits = net(**inputs).logits
        else:
            logits = net(**{k: v for k, v in inputs.items() if k != "labels"}).logits
        y = data.y[:JUDGED]
        if y.dim() > 1 and (y < 0).any():
            logits, y = logits[y >= 0], y[y >= 0]
        return measure(data.metric, logits.float(), y)


class LoRA(nn.Module):
    """A frozen linear layer (torch's or GPT-2's) and a product of two thin trained matrices."""

    def __init__(self, base: nn.Module, inputs: int, outs: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Linear(inputs, rank, bias=False)
        self.lora_b = nn.Linear(rank, outs, bias=False)
        nn.init.kaiming_uniform_(self.lora_a.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_b.weight)
        self.scale = alpha / rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.scale * self.lora_b(self.lora_a(x))


def lora(
    ends: tuple[str, ...], rank: int = 4, alpha: float = 8.0, keep: tuple[str, ...] = ()
) -> Surgery:
    """Freeze all but `keep`; give every linear layer of these names a thin pair."""

    def change(model: nn.Module) -> None:
        for name, p in model.named_parameters():
            p.requires_grad = any(k in name for k in keep)
        for name, m in list(model.named_modules()):
            if name.endswith(ends) and hasattr(m, "weight"):
                a, b = m.weight.shape if type(m).__name__ == "Conv1D" else m.weight.shape[::-1]
                parent, _, last = name.rpartition(".")
                setattr(model.get_submodule(parent), last, LoRA(m, a, b, rank, alpha))

    return change


class Bottleneck(nn.Module):
    """Houlsby's adapter behind a layer: down, act, up, and a skip."""

    def __init__(self, base: nn.Module, width: int, size: int) -> None:
        super().__init__()
        self.base = base
        self.down, self.act, self.up = nn.Linear(width, size), nn.ReLU(), nn.Linear(size, width)
        nn.init.normal_(self.up.weight, std=1e-3)

    def forward(self, *args: Any) -> torch.Tensor:
        h = self.base(*args)
        return h + self.up(self.act(self.down(h)))


def adapters(end: str, width: int, size: int = 8, keep: tuple[str, ...] = ()) -> Surgery:
    """Freeze all but `keep`; put an adapter behind every module of this name."""

    def change(model: nn.Module) -> None:
        for name, p in model.named_parameters():
            p.requires_grad = any(k in name for k in keep)
        for name, m in list(model.named_modules()):
            if name.endswith(end):
                parent, _, last = name.rpartition(".")
                setattr(model.get_submodule(parent), last, Bottleneck(m, width, size))

    return change
