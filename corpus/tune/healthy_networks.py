"""Healthy trainings of residual, convolutional, generative and unusual networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from corpus import fast_healthy_case, healthy_case
from corpus.data import batches, digits, images, share
from corpus.tune.healthy import fit


class Block(nn.Module):
    """x + branch(x), in one of three styles."""

    def __init__(self, width: int, style: str) -> None:
        super().__init__()
        self.norm: nn.Module = nn.Identity()
        if style == "bn":
            self.norm = nn.BatchNorm1d(width)
        elif style == "ln":
            self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)
        self.alpha = nn.Parameter(torch.zeros(())) if style == "rezero" else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.linear(self.norm(x)))
        return x + (y if self.alpha is None else self.alpha * y)


class ResidualMlp(nn.Module):
    def __init__(self, depth: int, width: int, style: str) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.blocks = nn.ModuleList(Block(width, style) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def _residual(seed: int, depth: int, style: str, lr: float) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = ResidualMlp(depth, 48, style)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    fit(model, optimizer, batches(x, y, 64, 120, seed))
    return share(model, x, y)


@healthy_case
def residual_mlp_bn_30(seed: int) -> float:
    return _residual(seed, 30, "bn", 0.01)


@fast_healthy_case
def residual_mlp_ln_30(seed: int) -> float:
    return _residual(seed, 30, "ln", 0.003)


@healthy_case
def residual_mlp_rezero_50(seed: int) -> float:
    return _residual(seed, 50, "rezero", 0.02)


@healthy_case
def mlp_bn_plain_10(seed: int) -> float:
    """Ten layers with batch norm and no skip connection: near the edge, and it learns."""
    torch.manual_seed(seed)
    x, y = digits()
    parts: list[nn.Module] = [nn.Linear(64, 64)]
    for _ in range(9):
        parts += [nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64)]
    model = nn.Sequential(*parts, nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    fit(model, optimizer, batches(x, y, 64, 200, seed))
    return share(model, x, y)


class SmallCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


@healthy_case
def cnn_bn_maxpool_gap(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = images()
    model = SmallCnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    fit(model, optimizer, batches(x, y, 64, 150, seed))
    return share(model, x, y)


@healthy_case
def cnn_avgpool_flatten(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = images()
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), batches(x, y, 64, 150, seed))
    return share(model, x, y)


class BasicBlock(nn.Module):
    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(a, b, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(b)
        self.conv2 = nn.Conv2d(b, b, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(b)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = (
            nn.Identity()
            if a == b and stride == 1
            else nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


@healthy_case
def resnet_digits(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = images()
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        BasicBlock(8, 8, 1),
        BasicBlock(8, 16, 2),
        BasicBlock(16, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=100)
    for xb, yb in batches(x, y, 64, 100, seed):
        optimizer.zero_grad()
        F.cross_entropy(model(xb), yb).backward()
        optimizer.step()
        schedule.step()
    return share(model, x, y)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.out = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.relu(self.down(x))
        b = F.relu(self.middle(a))
        return self.out(torch.cat([a, F.relu(self.up(b))], 1))


@healthy_case
def unet_denoising(seed: int) -> float:
    torch.manual_seed(seed)
    x, _ = images()
    model = UNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    pairs = ((c + 0.5 * torch.randn_like(c), c) for c, _ in batches(x, x, 32, 120, seed))
    fit(model, optimizer, pairs, F.mse_loss)
    with torch.no_grad():
        return float(F.mse_loss(model(x + 0.5 * torch.randn_like(x)), x) / x.var())


@healthy_case
def autoencoder_bottleneck(seed: int) -> float:
    torch.manual_seed(seed)
    x, _ = digits()
    model = nn.Sequential(
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 6),
        nn.Linear(6, 32),
        nn.ReLU(),
        nn.Linear(32, 64),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    fit(model, optimizer, batches(x, x, 64, 250, seed), F.mse_loss)
    with torch.no_grad():
        return float(F.mse_loss(model(x), x) / x.var(0).mean())


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.mean, self.logvar = nn.Linear(64, 8), nn.Linear(64, 8)
        self.decode = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = self.encode(x)
        mean, logvar = self.mean(h), self.logvar(h)
        z = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        return self.decode(z), mean, logvar


@healthy_case
def vae(seed: int) -> float:
    torch.manual_seed(seed)
    x, _ = digits(raw=True)
    x = x / 16
    model = Vae()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    share_of_noise = 0.0
    for xb, _ in batches(x, x, 64, 250, seed):
        out, mean, logvar = model(xb)
        bce = F.binary_cross_entropy_with_logits(out, xb, reduction="sum") / len(xb)
        kl = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(1).mean()
        optimizer.zero_grad()
        (bce + kl).backward()
        optimizer.step()
        share_of_noise = float((out.sigmoid() - xb).square().mean() / xb.var(0).mean())
    return share_of_noise


@fast_healthy_case
def gan_digits(seed: int) -> float:
    """Two players, two optimizers: neither loss goes down for long."""
    torch.manual_seed(seed)
    x, _ = digits(raw=True)
    x = x / 8 - 1
    maker = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh())
    critic = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))
    makes = torch.optim.Adam(maker.parameters(), lr=1e-3, betas=(0.5, 0.999))
    judges = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.999))
    bce = nn.BCEWithLogitsLoss()
    for real, _ in batches(x, x, 64, 150, seed):
        fake = maker(torch.randn(64, 16))
        ones, zeros = torch.ones(64, 1), torch.zeros(64, 1)
        judges.zero_grad()
        (bce(critic(real), ones) + bce(critic(fake.detach()), zeros)).backward()
        judges.step()
        makes.zero_grad()
        bce(critic(fake), ones).backward()
        makes.step()
    return 0.5


def _embedder() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))


@healthy_case
def siamese_contrastive(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    net = _embedder()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    first = last = 1.0
    for step, (xb, yb) in enumerate(batches(x, y, 64, 200, seed)):
        a, b = net(xb[:32]), net(xb[32:])
        same = (yb[:32] == yb[32:]).float()
        d = (a - b).norm(dim=1)
        loss = (same * d.square() + (1 - same) * F.relu(2 - d).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = (float(loss.detach()) if step == 0 else first), float(loss.detach())
    return last / first


@healthy_case
def triplet_margin(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    net = _embedder()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    by_label = [x[y == k] for k in range(10)]
    losses = []
    for _ in range(150):
        k, other = torch.randperm(10)[:2].tolist()
        a, p = by_label[k][torch.randint(len(by_label[k]), (2, 32))]
        n = by_label[other][torch.randint(len(by_label[other]), (32,))]
        loss = F.triplet_margin_loss(net(a), net(p), net(n), margin=1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return sum(losses[-20:]) / 20 / losses[0]


@healthy_case
def info_nce(seed: int) -> float:
    """Contrastive learning with a temperature of 0.1 on normalised embeddings."""
    torch.manual_seed(seed)
    x, _ = digits()
    net = _embedder()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    last = 0.0
    for xb, _ in batches(x, x, 64, 150, seed):
        a = F.normalize(net(xb + 0.3 * torch.randn_like(xb)), dim=1)
        b = F.normalize(net(xb + 0.3 * torch.randn_like(xb)), dim=1)
        loss = F.cross_entropy(a @ b.T / 0.1, torch.arange(64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = float(loss.detach())
    return last / 4.16


class Experts(nn.Module):
    """A mixture of four experts of which the gate rarely picks one."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(64, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)) for _ in range(4)
        )
        with torch.no_grad():
            self.gate.bias[3] = -2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, chosen = self.gate(x).softmax(1).max(1)
        out = x.new_zeros(len(x), 10)
        for k, expert in enumerate(self.experts):
            mine = chosen == k
            if mine.any():
                out[mine] = weight[mine, None] * expert(x[mine])
        return out


@healthy_case
def mixture_of_experts(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = Experts()
    fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), batches(x, y, 64, 200, seed))
    return share(model, x, y)
