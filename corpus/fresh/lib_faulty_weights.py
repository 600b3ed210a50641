"""Faulty rows of weights, activations, depth and recurrence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from corpus import ANY
from corpus.fresh import broken
from corpus.recipes import Surgery, adam, gaussian, he, sgd
from corpus.trainings import fresh_lib_made as made
from corpus.trainings import fresh_lib_nets as nets
from corpus.trainings import fresh_lib_tune as tune
from corpus.trainings import seq_tasks
from corpus.trainings.networks import dense
from corpus.trainings.seq_faults import Do, cubed, squared
from corpus.trainings.surgery import all_times, both, shifted, times


def normal(std: float) -> Surgery:
    """`for p in model.parameters(): nn.init.normal_(p)`, as said of Xavier's."""

    def change(model: nn.Module) -> None:
        for p in model.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=std)

    return change


def recurrent(change: Callable[[torch.Tensor], object]) -> Surgery:
    """Change the weights that carry the state of a module called rnn."""

    def surgery(model: nn.Module) -> None:
        with torch.no_grad():
            for name, p in model.get_submodule("rnn").named_parameters():
                if "weight_hh" in name:
                    change(p)

    return surgery


def sigmoids(act: Callable[[], nn.Module]) -> nn.Sequential:
    """Six layers of 48."""
    return nn.Sequential(
        *(m for i in range(6) for m in (nn.Linear(48 if i else 64, 48), act())),
    )


def log_softmax(model: nn.Module) -> None:
    """What NLLLoss expects."""
    model.out = nn.LogSoftmax(dim=1)


# Too large.
LARGE = "exploding|saturated"
broken(
    "lib_encoder_words_gelu_first/normal_everywhere",
    LARGE,
    "weights_too_large",
    ANY,
    dict(init=normal(1.0)),
)
broken(
    "lib_pinn_membrane/weights_x10",
    f"{LARGE}|vanishing|shattered",
    "weights_too_large",
    ANY,
    dict(surgery=all_times(10.0)),
)
broken(
    "lib_fixmatch_digits/lone_x100",
    f"{LARGE}|nonfinite|dead|spike",
    "weights_too_large",
    ("2", "3"),
    dict(surgery=times("2", 100.0)),
)
broken(
    "lib_dcgan_digits/normal_of_two",
    LARGE,
    "weights_too_large",
    ANY,
    dict(init=partial(made.dcgan_weights, std=2.0)),
)

# Too small.
SMALL = "vanishing|stalled"


def hollow(model: nn.Module) -> None:
    """LoRA with both of its matrices at zero."""
    tune.lora(("c_attn", "c_fc"), 4, 8.0, keep=("score",))(model)
    for m in model.modules():
        if isinstance(m, tune.LoRA):
            nn.init.zeros_(m.lora_a.weight)


broken(
    "lib_gpt2_manual_words_lora/both_zero",
    f"{SMALL}|dead",
    "weights_too_small|disconnected_parameters",
    ANY,
    dict(surgery=hollow),
)
broken(
    "lib_fixmatch_digits/std_001",
    SMALL,
    "weights_too_small",
    ANY,
    dict(surgery=partial(gaussian, std=0.01)),
    surgery=he,
    depth=5,
)
broken(
    "lib_flow_matching_roll_sgd/uniform_1e_3",
    SMALL,
    "weights_too_small",
    ANY,
    dict(surgery=partial(gaussian, std=1e-3)),
    skip=False,
    depth=4,
)

# Activations that saturate.
FLAT = ("vanishing|saturated|stalled|collapsed", "saturating_activation", ANY)
broken(
    "lib_ddpm_moons/sigmoid_8",
    *FLAT,
    dict(act=nn.Sigmoid),
    depth=8,
    skip=False,
    act=nn.Tanh,
    optimizer=adam(1e-3),
)
broken(
    "lib_hardened_digits_growing/sigmoid_7",
    *FLAT,
    dict(model=dense(7, 56, nn.Sigmoid)),
    model=dense(7, 56, nn.Tanh),
    optimizer=adam(1e-3),
)
broken(
    "lib_two_speeds_digits/sigmoid_6",
    *FLAT,
    dict(body=lambda t: sigmoids(nn.Sigmoid)),
    body=lambda t: sigmoids(nn.Tanh),
)

# Activations without a bound.
STEEP = ("exploding|nonfinite|spike", "unbounded_activation", ANY)
broken(
    "lib_ddpm_digits_huber/cubed",
    *STEEP,
    dict(act=partial(Do, cubed)),
    depth=4,
    optimizer=sgd(0.05, momentum=0.9),
)
broken(
    "lib_fixmatch_digits/squared_relu",
    *STEEP,
    dict(act=partial(Do, squared)),
    surgery=he,
    depth=5,
    optimizer=sgd(0.02, momentum=0.9),
)
broken(
    "lib_nvp_rings_relu_clipped/exponent_twice",
    *STEEP,
    dict(bound=lambda s: s.exp()),
)
broken(
    "lib_hardened_continent_ridge/cubed",
    *STEEP,
    dict(model=dense(4, 40, partial(Do, cubed))),
    model=dense(4, 40, nn.LeakyReLU),
    surgery=he,
)

# Units that never open.
DEAD = ("dead|vanishing|stalled", "dead_relu")
broken("lib_dqn_pole_tutorial/bias_minus_20", *DEAD, ("2", "3"), dict(surgery=shifted("2", -20.0)))
broken(
    "lib_two_speeds_digits/bias_minus_60",
    *DEAD,
    ("body", "body.0", "body.1"),
    dict(surgery=shifted("body.0", -60.0)),
)
broken(
    "lib_lstm_tides_huber/bias_minus_10",
    *DEAD,
    ("fc1", "act"),
    dict(init=shifted("fc1", -10.0)),
)

# Depth without a way around.
DEEP = ("collapsed|vanishing|stalled|shattered", "depth_without_skip", ANY)
broken(
    "lib_kipf_few_labels/thirty_layers",
    *DEEP,
    dict(model=nets.nodes(nets.gcn, *[32] * 30, act=nn.Tanh)),
    model=nets.nodes(nets.gcn, 32, act=nn.Tanh),
    steps=60,
)
broken(
    "lib_supcon_digits_sgd/fifty_plain",
    *DEEP,
    dict(depth=50),
    surgery=he,
    optimizer=sgd(0.02, momentum=0.9),
    steps=80,
)
NORMED = ("exploding|shattered|collapsed", "normalization_without_skip", ANY)
broken(
    "lib_fixmatch_batchnorm_adam/forty_five",
    *NORMED,
    dict(depth=45),
    act=nn.ReLU,
    steps=60,
)
broken(
    "lib_moco_digits/forty_normed",
    *NORMED,
    dict(depth=44),
    norm=True,
    steps=60,
)
broken(
    "lib_sage_batchnorm_three/thirty_two_layers",
    "exploding|shattered|collapsed",
    "normalization_without_skip|depth_without_skip",
    ANY,
    dict(model=nets.nodes(lambda g, a, b: g.SAGEConv(a, b), *[40] * 32, norm=True, drop=0.3)),
    steps=30,
)

# Weights that carry a state.
broken(
    "lib_rnn_mackey_sgd/radius_20",
    "exploding|saturated|shattered|oscillating",
    "recurrent_weights",
    ("rnn",),
    dict(init=recurrent(lambda p: p.mul_(20.0))),
    clip=None,
)
broken(
    "lib_rnn_mackey_sgd/twice_the_identity",
    "exploding|nonfinite",
    "recurrent_weights",
    ("rnn",),
    dict(init=recurrent(lambda p: p.copy_(2.0 * torch.eye(40)))),
    model=nets.series(nn.RNN, 40, nonlinearity="relu"),
    init=recurrent(lambda p: p.copy_(torch.eye(40))),
    optimizer=sgd(0.01, momentum=0.9),
)
broken(
    "lib_packed_rnn_names_nll_sgd/nothing_carried",
    "vanishing",
    "recurrent_weights",
    ("rnn",),
    dict(init=both(log_softmax, recurrent(lambda p: p.mul_(1e-3)))),
    init=both(log_softmax, recurrent(nn.init.orthogonal_)),
    task=partial(seq_tasks.numerals, digit=3),
)
