"""Models that make data, as their tutorials train them: VAE, GAN, diffusion, flow matching."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.data import batches
from corpus.recipes import Optimizer, Poison, Surgery, adam, same_batch, untouched
from corpus.trainings import tasks
from corpus.trainings.fresh_lib_tasks import moons
from corpus.trainings.loops import moments
from corpus.trainings.tasks import measure

Act = Callable[[], nn.Module]
Scaling = Callable[[torch.Tensor], torch.Tensor]


def stepped(
    motor: torch.optim.Optimizer,
    loss: torch.Tensor,
    model: nn.Module,
    zero: bool,
    clip: float | None,
) -> None:
    """One update; zero: whether somebody thinks of zero_grad."""
    if zero:
        motor.zero_grad()
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    motor.step()


class VAE(nn.Module):
    """PyTorch's example: fc1, fc21, fc22, fc3, fc4; deeper with `depth`."""

    def __init__(self, width: int, code: int, act: Act, depth: int) -> None:
        super().__init__()
        more = [m for _ in range(depth - 1) for m in (nn.Linear(width, width), act())]
        self.fc1 = nn.Sequential(nn.Linear(64, width), act(), *more)
        self.fc21, self.fc22 = nn.Linear(width, code), nn.Linear(width, code)
        self.fc3 = nn.Sequential(nn.Linear(code, width), act())
        self.fc4 = nn.Linear(width, 64)
        self.final: nn.Module = nn.Sigmoid()

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and logarithm of the variance."""
        h = self.fc1(x)
        return self.fc21(h), self.fc22(h)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """A picture from 0 to 1."""
        return self.final(self.fc4(self.fc3(z)))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean, log = self.encode(x)
        z = mean + torch.randn_like(mean) * (0.5 * log).exp()
        return self.decode(z), mean, log


def safe_bce(out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of probabilities, summed."""
    return F.binary_cross_entropy(out, x, reduction="sum")


def vae(
    seed: int,
    *,
    width: int = 80,
    code: int = 8,
    act: Act = nn.ReLU,
    depth: int = 1,
    likeness: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = safe_bce,
    each: bool = False,
    beta: float = 0.5,
    factor: float = 1.0,
    optimizer: Optimizer = adam(3e-3),
    surgery: Surgery = untouched,
    final: Act = nn.Sigmoid,
    poison: Poison = same_batch,
    clip: float | None = None,
    zero: bool = True,
    unit: float = 1 / 16,
    steps: int = 250,
) -> float:
    """Bernoulli VAE on digits from 0 to 1, losses summed as in the example, or (each) by sample."""
    torch.manual_seed(seed)
    raw = tasks.digits().x
    x = (raw - raw.min()) / (raw.max() - raw.min()) * 16 * unit
    net = VAE(width, code, act, depth)
    net.final = final()
    surgery(net)
    motor = optimizer(net.parameters())
    for step, pair in enumerate(batches(x, x, 64, steps, seed)):
        xb, yb = poison(step, *pair)
        out, mean, log = net(xb)
        kl = -0.5 * (1 + log - mean.square() - log.exp()).sum()
        loss = factor * (likeness(out, yb) + beta * kl) / (len(xb) if each else 1)
        stepped(motor, loss, net, zero, clip)
    with torch.no_grad():
        return measure("squares", net.decode(net.encode(x)[0]), x)


class Denoiser(nn.Module):
    """embed (of time), body: blocks with or without skips; what noise is in x [N, D]."""

    def __init__(self, size: int, width: int, depth: int, act: Act, skip: bool) -> None:
        super().__init__()
        self.inp, self.embed = nn.Linear(size, width), nn.Linear(16, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), act()) for _ in range(depth)
        )
        self.last, self.skip = nn.Linear(width, size), skip
        self.final: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        angles = t[:, None] * 2.0 ** torch.arange(8) * math.pi / 2
        h = self.inp(x) + self.embed(torch.cat([angles.sin(), angles.cos()], 1).to(x.dtype))
        for block in self.blocks:
            h = h + block(h) if self.skip else block(h)
        return self.final(self.last(h))


def denoising(
    seed: int,
    *,
    kind: str = "noise",
    data: str = "moons",
    width: int = 64,
    depth: int = 3,
    act: Act = nn.SiLU,
    skip: bool = True,
    optimizer: Optimizer = adam(3e-3),
    surgery: Surgery = untouched,
    final: Act = nn.Identity,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.mse_loss,
    scale_input: Scaling = lambda x: x,
    poison: Poison = same_batch,
    dtype: torch.dtype = torch.float32,
    clip: float | None = 1.0,
    zero: bool = True,
    elsewhere: bool = False,
    batch: int = 128,
    steps: int = 250,
) -> float:
    """DDPM (kind noise) or flow matching (kind velocity) on points or digits; the error on draws
    of its own, as a share of that of the mean answer."""
    torch.manual_seed(seed)
    x = scale_input(tasks.digits().x if data == "digits" else moons(data))
    net = Denoiser(x.shape[1], width, depth, act, skip)
    net.final = final()
    surgery(net)
    net.to(dtype)
    trained = Denoiser(x.shape[1], width, depth, act, skip) if elsewhere else net
    motor = optimizer(trained.parameters())

    def asked(xb: torch.Tensor, dice: torch.Generator | None) -> tuple[torch.Tensor, ...]:
        t = torch.rand(len(xb), generator=dice)
        noise = torch.randn(xb.shape, generator=dice)
        if kind == "noise":
            a, b = (t * math.pi / 2).cos()[:, None], (t * math.pi / 2).sin()[:, None]
            return a * xb + b * noise, t, noise
        return (1 - t[:, None]) * noise + t[:, None] * xb, t, xb - noise

    for step, pair in enumerate(batches(x, x, batch, steps, seed)):
        xb, t, goal = asked(poison(step, *pair)[0], None)
        out = net(xb.to(dtype), t.to(dtype)) if dtype != torch.float32 else net(xb, t)
        stepped(motor, loss(out, goal.to(dtype)), net, zero, clip)
    xb, t, goal = asked(x, torch.Generator().manual_seed(9))
    with torch.no_grad():
        return measure("squares", net(xb.to(dtype), t.to(dtype)).float(), goal)


class Generator(nn.Module):
    """DCGAN's: transposed convolutions with batch norm from noise to [N, 1, 8, 8]."""

    def __init__(self, code: int, width: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(code, 2 * width, 4, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(True),
            nn.ConvTranspose2d(2 * width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(True),
            nn.ConvTranspose2d(width, 1, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.main(z[:, :, None, None])


def dcgan_weights(model: nn.Module, std: float = 0.02) -> None:
    """Normal weights for convolutions; one for norms."""
    for m in model.modules():
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(m.weight, 0.0, std)
        elif isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.weight, 1.0, 0.02)
            nn.init.zeros_(m.bias)


def dcgan(
    seed: int,
    *,
    width: int = 12,
    code: int = 16,
    init: Surgery = dcgan_weights,
    maker: Optimizer = adam(2e-3, betas=(0.5, 0.999)),
    judge: Optimizer = adam(1e-3, betas=(0.5, 0.999)),
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.binary_cross_entropy,
    sigmoid: Act = nn.Sigmoid,
    smooth: float = 0.9,
    zero_judge: bool = True,
    cut: bool = False,
    poison: Poison = same_batch,
    surgery: Surgery = untouched,
    steps: int = 220,
) -> float:
    """DCGAN on digits from -1 to 1; cut: the maker's pictures reach its loss detached. The error
    of the means and spreads of what is made, at the start 1."""
    torch.manual_seed(seed)
    x, y = tasks.digits((1, 8, 8)).x, tasks.digits().y
    x = 2 * (x - x.min()) / (x.max() - x.min()) - 1
    make = Generator(code, width)
    see = nn.Sequential(
        nn.Conv2d(1, width, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(8 * width, 1),
        sigmoid(),
    )
    init(make), init(see), surgery(make)
    one, two = maker(make.parameters()), judge(see.parameters())
    probe, goal = torch.randn(500, code), moments(x.flatten(1))
    with torch.no_grad():
        before = float((moments(make(probe).flatten(1)) - goal).norm())
    for step, pair in enumerate(batches(x, y, 48, steps, seed)):
        xb, _ = poison(step, *pair)
        yes, no = torch.full((48, 1), smooth), torch.zeros(48, 1)
        fake = make(torch.randn(48, code))
        if zero_judge:
            two.zero_grad()
        (loss(see(xb), yes) + loss(see(fake.detach()), no)).backward()
        two.step()
        shown = fake.detach().requires_grad_() if cut else fake
        see.requires_grad_(False)
        one.zero_grad()
        loss(see(shown), torch.ones(48, 1)).backward()
        see.requires_grad_(True)
        one.step()
    with torch.no_grad():
        return float((moments(make(probe).flatten(1)) - goal).norm()) / before
