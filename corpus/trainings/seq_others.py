"""Other people's sequence models, from configuration, and what is trained of a frozen one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from corpus.recipes import Surgery
from corpus.trainings.fit import Build
from corpus.trainings.tasks import Task

SPECIAL = dict(bos_token_id=0, eos_token_id=0, pad_token_id=0)


def hugging(config: str, model: str, **sizes: Any) -> Build:
    """A model of transformers; what the task knows (letters, classes) is filled in."""

    def build(task: Task) -> nn.Module:
        import transformers

        known: dict[str, Any] = dict(vocab_size=task.size, **SPECIAL) if task.size else {}
        if "Classification" in model:
            known["num_labels"] = task.out
        return getattr(transformers, model)(getattr(transformers, config)(**{**known, **sizes}))

    return build


def embedded(config: str, model: str, width: int, **sizes: Any) -> Build:
    """A headless model of transformers over numbers: lift, body, answer (mean over time)."""

    class Wrapped(nn.Module):
        def __init__(self, task: Task) -> None:
            super().__init__()
            import transformers

            self.lift = nn.Linear(task.x.shape[-1], width)
            self.body = getattr(transformers, model)(getattr(transformers, config)(**sizes))
            self.answer = nn.Linear(width, task.out)
            self.out: nn.Module = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.body(inputs_embeds=self.lift(x)).last_hidden_state
            return self.out(self.answer(h.mean(1)))

    return Wrapped


def logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The scores in a model's answer."""
    return model(x).logits


def translated(cut: int) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    """An encoder reads what stands before the cut, a decoder what stands behind it."""

    def call(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(input_ids=x[:, :cut], decoder_input_ids=x[:, cut:]).logits

    return call


def series_x(kind: str, dim: int = 32, depth: int = 2, **options: Any) -> Build:
    """x-transformers over numbers [N, T, D]: the last step answers."""

    class Continuous(nn.Module):
        def __init__(self, task: Task) -> None:
            super().__init__()
            import x_transformers as library

            tower = getattr(library, kind)(
                dim=dim, depth=depth, heads=2, attn_dim_head=16, **options
            )
            self.net = library.ContinuousTransformerWrapper(
                dim_in=task.x.shape[-1], dim_out=task.out, max_seq_len=64, attn_layers=tower
            )
            self.out: nn.Module = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.net(x)[:, -1])

    return Continuous


def text_x(
    kind: str, dim: int = 32, depth: int = 2, outer: dict[str, Any] | None = None, **options: Any
) -> Build:
    """x-transformers over letters: an answer for each if causal, else one for the whole."""

    class Letters(nn.Module):
        def __init__(self, task: Task) -> None:
            super().__init__()
            import x_transformers as library

            tower = getattr(library, kind)(
                dim=dim, depth=depth, heads=2, attn_dim_head=16, **options
            )
            self.net = library.TransformerWrapper(
                num_tokens=task.size,
                max_seq_len=64,
                attn_layers=tower,
                logits_dim=task.out,
                **(outer or {}),
            )
            self.each = task.y.dim() == 2
            self.out: nn.Module = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.out(self.net(x))
            return h if self.each else h.mean(1)

    return Letters


class Selected(nn.Module):
    """sense, stack (mambapy), answer."""

    def __init__(self, task: Task, width: int, stack: nn.Module) -> None:
        super().__init__()
        inputs = task.x.shape[-1]
        self.sense = nn.Embedding(task.size, width) if task.size else nn.Linear(inputs, width)
        self.stack = stack
        self.answer = nn.Linear(width, task.out)
        self.each = task.y.dim() == 2 and not task.y.is_floating_point()
        self.out: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stack(self.sense(x))
        h = h[0] if isinstance(h, tuple) else h
        return self.out(self.answer(h if self.each else h[:, -1]))


def selective(width: int = 16, depth: int = 1, **options: Any) -> Build:
    """mambapy's Mamba with other options than its usual ones."""

    def build(task: Task) -> nn.Module:
        from mambapy.mamba import Mamba, MambaConfig

        return Selected(task, width, Mamba(MambaConfig(d_model=width, n_layers=depth, **options)))

    return build


def jamba(width: int = 32) -> Build:
    """mambapy's Jamba: state spaces, attention and experts in turn."""

    def build(task: Task) -> nn.Module:
        from mambapy.jamba import Jamba, JambaLMConfig

        config = JambaLMConfig(
            d_model=width,
            n_layers=2,
            mlp_size=2 * width,
            d_state=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            attn_layer_period=2,
            attn_layer_offset=1,
            num_experts=2,
            num_experts_per_tok=1,
            expert_layer_period=2,
            expert_layer_offset=1,
        )
        return Selected(task, width, Jamba(config))

    return build


class Lora(nn.Module):
    """A frozen linear layer beside a thin one that learns: scale B A x."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, base.in_features) * base.in_features**-0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.scale * (x @ self.a.T @ self.b.T)


def with_lora(names: tuple[str, ...], rank: int = 4, scale: float = 2.0) -> Surgery:
    """Freeze the model but its last layer; put thin layers beside those whose name ends so."""

    def change(model: nn.Module) -> None:
        model.requires_grad_(False)
        for name, module in [*model.named_modules()]:
            if isinstance(module, nn.Linear) and name.endswith(names):
                parent, _, last = name.rpartition(".")
                setattr(model.get_submodule(parent), last, Lora(module, rank, scale))
        [m for m in model.modules() if isinstance(m, nn.Linear)][-1].requires_grad_(True)

    return change


def learning(model: nn.Module) -> Iterable[Any]:
    """What is not frozen."""
    return [p for p in model.parameters() if p.requires_grad]
