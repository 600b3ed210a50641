"""Trainings that make images or codes: a DCGAN, a convolutional VAE, a VQ-VAE."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.recipes import Optimizer, Poison, Surgery, adam, same_batch, untouched
from corpus.trainings.tasks import digits, measure

Tensor = torch.Tensor


def pages(raw: bool = False) -> Tensor:
    """Digits [N, 1, 8, 8] from 0 to 1, or (raw) from 0 to 16."""
    x = digits((1, 8, 8)).x
    x = (x - x.min()) / (x.max() - x.min())
    return 16 * x if raw else x


def draw(x: Tensor, batch: int, dice: torch.Generator) -> Tensor:
    """A random batch."""
    return x[torch.randint(len(x), (batch,), generator=dice)]


def dcgan_init(std: float) -> Surgery:
    """What the DCGAN tutorial applies to all modules, with its 0.02 or something else."""

    def change(model: nn.Module) -> None:
        for m in model.modules():
            if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(m.weight, 0.0, std)
            elif isinstance(m, nn.BatchNorm2d):
                nn.init.normal_(m.weight, 1.0, 0.02)
                nn.init.zeros_(m.bias)

    return change


def generator(end: Callable[[], nn.Module]) -> nn.Sequential:
    """From [N, 20, 1, 1] to [N, 1, 8, 8]."""
    return nn.Sequential(
        nn.ConvTranspose2d(20, 32, 4, 1, 0, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
        nn.ConvTranspose2d(32, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
        nn.ConvTranspose2d(16, 1, 4, 2, 1), end(),
    )  # fmt: skip


def discriminator() -> nn.Sequential:
    """From [N, 1, 8, 8] to a logit."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 24, 4, 2, 1),
        nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(96, 1),
    )  # fmt: skip


def dcgan(
    seed: int,
    *,
    init: Surgery = dcgan_init(0.02),
    end: Callable[[], nn.Module] = nn.Tanh,
    maker: Optimizer = adam(1e-3, betas=(0.5, 0.999)),
    judge: Optimizer = adam(1e-3, betas=(0.5, 0.999)),
    cut: bool = False,
    smooth: float = 0.9,
    steps: int = 160,
) -> float:
    """The tutorial's GAN; the distance of mean and spread images beside that at the start.

    cut: the generator's fake images were detached in its own step as well. smooth: a real label.
    """
    torch.manual_seed(seed)
    x = pages() * 2 - 1
    make, see = generator(end), discriminator()
    init(make)
    init(see)
    opt_g, opt_d = maker(make.parameters()), judge(see.parameters())
    dice = torch.Generator().manual_seed(seed)
    probe, goal = torch.randn(400, 20, 1, 1), torch.cat([x.mean(0), x.std(0)])

    def far() -> float:
        with torch.no_grad():
            y = make(probe)
        return float((torch.cat([y.mean(0), y.std(0)]) - goal).norm())

    before, bce = far(), F.binary_cross_entropy_with_logits
    for _ in range(steps):
        real, fake = draw(x, 48, dice), make(torch.randn(48, 20, 1, 1))
        opt_d.zero_grad()
        a, b = see(real), see(fake.detach())
        (bce(a, torch.full_like(a, smooth)) + bce(b, torch.zeros_like(b))).backward()
        opt_d.step()
        opt_g.zero_grad()
        out = see(fake.detach() if cut else fake)
        bce(out, torch.ones_like(out)).backward()
        opt_g.step()
    return far() / before


class Vae(nn.Module):
    """encoder, fc_mu, fc_logvar, fc_up, decoder, end."""

    def __init__(self, end: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        self.fc_mu, self.fc_logvar = nn.Linear(96, 8), nn.Linear(96, 8)
        self.fc_up = nn.Linear(8, 96)
        self.decoder = nn.Sequential(
            nn.Unflatten(1, (24, 2, 2)), nn.ReLU(), nn.ConvTranspose2d(24, 12, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(12, 1, 4, 2, 1),
        )  # fmt: skip
        self.end = end()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        return self.fc_mu(h), self.fc_logvar(h)

    def decode(self, z: Tensor) -> Tensor:
        return self.end(self.decoder(self.fc_up(z)))


def crossed(out: Tensor, x: Tensor) -> Tensor:
    """The tutorial's reconstruction loss: binary cross-entropy, summed."""
    return F.binary_cross_entropy(out, x, reduction="sum")


def vae(
    seed: int,
    *,
    end: Callable[[], nn.Module] = nn.Sigmoid,
    lost: Callable[[Tensor, Tensor], Tensor] = crossed,
    spread: Callable[[Tensor], Tensor] = lambda log: (0.5 * log).exp(),
    beta: Callable[[int], float] = lambda step: 1.0,
    share: float = 1 / 64,
    optimizer: Optimizer = adam(3e-3),
    init: Surgery = untouched,
    surgery: Surgery = untouched,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
    poison: Poison = same_batch,
    clip: float | None = None,
    steps: int = 200,
) -> float:
    """Kingma's autoencoder on pages; what the mean code gives back beside the mean image."""
    torch.manual_seed(seed)
    x = prepare(pages())
    net = Vae(end)
    init(net)
    surgery(net)
    motor, dice = optimizer(net.parameters()), torch.Generator().manual_seed(seed)
    for step in range(steps):
        xb = draw(x, 64, dice)
        xb, _ = poison(step, xb, xb)
        motor.zero_grad()
        mu, log = net.encode(xb)
        out = net.decode(mu + spread(log) * torch.randn_like(mu))
        away = -0.5 * (1 + log - mu.square() - log.exp()).sum()
        ((lost(out, xb) + beta(step) * away) * share).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        motor.step()
    with torch.no_grad():
        out = net.decode(net.encode(x)[0])
        return measure("squares", out.flatten(1), x.flatten(1))


class Quantized(nn.Module):
    """encoder, book, decoder: the code is the nearest of a few learned vectors."""

    def __init__(self, codes: int, straight: bool, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), act(), nn.Conv2d(16, 16, 3, 1, 1), act(), nn.Conv2d(16, 6, 1)
        )
        self.book, self.straight = nn.Embedding(codes, 6), straight
        nn.init.uniform_(self.book.weight, -1 / codes, 1 / codes)
        self.decoder = nn.Sequential(
            nn.Conv2d(6, 16, 3, 1, 1), act(), nn.ConvTranspose2d(16, 16, 4, 2, 1), act(),
            nn.Conv2d(16, 1, 3, 1, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x).permute(0, 2, 3, 1)
        near = torch.cdist(z.reshape(-1, 6), self.book.weight).argmin(1)
        q = self.book(near).view_as(z)
        pull = F.mse_loss(q, z.detach())
        pull = pull + 0.25 * F.mse_loss(z, q.detach()) if self.straight else pull
        q = z + (q - z).detach() if self.straight else q.detach()
        return self.decoder(q.permute(0, 3, 1, 2)), pull


def vqvae(
    seed: int,
    *,
    codes: int = 32,
    straight: bool = True,
    act: Callable[[], nn.Module] = nn.ReLU,
    optimizer: Optimizer = adam(3e-3),
    surgery: Surgery = untouched,
    factor: float = 1.0,
    steps: int = 200,
) -> float:
    """A vector-quantised autoencoder. straight: the gradient passes the choice unchanged."""
    torch.manual_seed(seed)
    x = digits((1, 8, 8)).x
    net = Quantized(codes, straight, act)
    surgery(net)
    motor, dice = optimizer(net.parameters()), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        xb = draw(x, 48, dice)
        out, pull = net(xb)
        motor.zero_grad()
        (factor * (F.mse_loss(out, xb) + pull)).backward()
        motor.step()
    with torch.no_grad():
        return measure("squares", net(x)[0].flatten(1), x.flatten(1))
