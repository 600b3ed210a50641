"""How a gradient travels through time inside torch's fused recurrent modules.

RNN, LSTM and GRU hide their hidden states' gradients from hooks. The probe runs the module one
step at a time on the same input and takes the gradient of the last hidden state, along one random
direction, with respect to every earlier one: the Jacobian product itself, not the bound on it
(Pascanu, Mikolov & Bengio 2013: the bound can be loose by ten orders of magnitude and more).
"""

from __future__ import annotations

import torch
from torch import nn

_MAX_STEPS = 256
_MAX_BATCH = 16
_POINTS = 64


def through_time(module: nn.RNNBase, x: torch.Tensor) -> list[float] | None:
    """log10 ||d<v, h_T>/d h_t||_F - log10 ||v||_F for up to 64 evenly spaced t, oldest first.

    `x` is the module's own input, [T, B, I] or [B, T, I] by its `batch_first`, or [T, I]; only the
    last 256 steps of the first 16 sequences are used. Only the forward direction of a
    bidirectional module is measured. None where it cannot be measured (packed input, T < 3,
    non-finite states). RNG state and module are left as they were.
    """
    if x.dim() not in (2, 3) or module.proj_size:
        return None
    if x.dim() == 2:
        x = x.unsqueeze(1)
    elif module.batch_first:
        x = x.transpose(0, 1)
    # The input carries a gradient so that the states do, even where all weights are frozen.
    x = x[-_MAX_STEPS:, :_MAX_BATCH].detach().requires_grad_()
    if x.shape[0] < 3:
        return None
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        return _jacobian_norms(module, x)


def _jacobian_norms(module: nn.RNNBase, x: torch.Tensor) -> list[float] | None:
    states, h = [], None
    for t in range(x.shape[0]):
        h = _step(module, x[t], h)
        states.append(h)
    last = states[-1][0][-1]
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(last.shape, generator=generator).to(last)
    gradients = torch.autograd.grad(last, [h for s in states[:-1] for h in s], v, allow_unused=True)
    width = len(states[0])
    norms = []
    for t in range(len(states) - 1):
        parts = [g for g in gradients[t * width : (t + 1) * width] if g is not None]
        squares = sum(float(g.double().square().sum()) for g in parts)
        norms.append(squares**0.5 / float(v.double().norm()))
    values = torch.tensor(norms, dtype=torch.float64)
    if not bool(torch.isfinite(values).all()):
        return None
    logs = values.clamp(min=1e-300).log10()
    keep = torch.linspace(0, len(logs) - 1, min(len(logs), _POINTS)).round().long()
    return logs[keep].tolist()


def _step(
    module: nn.RNNBase, x: torch.Tensor, state: tuple[torch.Tensor, ...] | None
) -> tuple[torch.Tensor, ...]:
    """One time step of every layer of the forward direction; states are [layers, B, H]."""
    layers, size = module.num_layers, module.hidden_size
    if state is None:
        zero = x.new_zeros(layers, x.shape[0], size)
        state = (zero, zero) if module.mode == "LSTM" else (zero,)
    new: list[tuple[torch.Tensor, ...]] = []
    for k in range(layers):
        w = [getattr(module, f"{n}_l{k}") for n in ("weight_ih", "weight_hh")]
        b = [getattr(module, f"{n}_l{k}") if module.bias else None for n in ("bias_ih", "bias_hh")]
        h = tuple(s[k] for s in state)
        if k and module.bidirectional:
            x = torch.cat([x, x], dim=-1)  # stands in for the backward direction's features
        if module.mode == "LSTM":
            out = torch.lstm_cell(x, h, *w, *b)
        elif module.mode == "GRU":
            out = (torch.gru_cell(x, h[0], *w, *b),)
        elif module.mode == "RNN_TANH":
            out = (torch.rnn_tanh_cell(x, h[0], *w, *b),)
        else:
            out = (torch.rnn_relu_cell(x, h[0], *w, *b),)
        new.append(out)
        x = out[0]
    return tuple(torch.stack(parts) for parts in zip(*new, strict=True))
