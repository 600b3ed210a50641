"""Image trainings that are no plain loop: painters, noise, slopes of energy, styles, priors."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.data import batches
from corpus.recipes import Optimizer, Poison, Surgery, adam, same_batch, untouched
from corpus.trainings import image_tasks as at
from corpus.trainings import tasks
from corpus.trainings.image_blocks import Norm, Part, conv
from corpus.trainings.image_photos import photographs
from corpus.trainings.loops import descend
from corpus.trainings.tasks import measure

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def likeness(x: torch.Tensor) -> torch.Tensor:
    """Means and spreads of pixels, and what neighbours have in common."""
    flat = x.flatten(1)
    return torch.cat([flat.mean(0), flat.std(0), (x[..., 1:] * x[..., :-1]).mean((0, 1)).flatten()])


RIVALRY: dict[str, tuple[Loss, Loss]] = {  # what the judge and the painter want of true and false
    "logistic": (
        lambda t, f: (F.softplus(-t) + F.softplus(f)).mean(),
        lambda t, f: F.softplus(-f).mean(),
    ),
    "relative": (lambda t, f: F.softplus(f - t).mean(), lambda t, f: F.softplus(t - f).mean()),
    "hinge": (lambda t, f: (F.relu(1 - t) + F.relu(1 + f)).mean(), lambda t, f: -f.mean()),
}


def painters(
    seed: int,
    *,
    kind: str = "logistic",
    width: int = 8,
    wrap: Callable[[nn.Module], nn.Module] = lambda m: m,
    norm: Norm = nn.BatchNorm2d,
    act: Part = nn.ReLU,
    out: Part = nn.Identity,
    steep: float = 0.0,
    maker: Optimizer = adam(2e-3, betas=(0.0, 0.95)),
    judge: Optimizer = adam(4e-3, betas=(0.0, 0.95)),
    surgery: Surgery = untouched,
    poison: Poison = same_batch,
    wrong_parameters: bool = False,
    steps: int = 120,
) -> float:
    """A convolutional GAN on small digits, told which digit to paint.

    steep: a penalty on the judge's slope at true images.
    wrong_parameters: the painter's optimizer was given the judge. The error: that of likeness().
    """
    torch.manual_seed(seed)
    data = tasks.digits((1, 8, 8))
    small = F.avg_pool2d(data.x, 2)
    paint = nn.Sequential(
        nn.Linear(26, 4 * 2 * width),
        act(),
        nn.Unflatten(1, (2 * width, 2, 2)),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
        norm(width),
        act(),
        conv(width, 1),
        out(),
    )
    see = nn.Sequential(
        wrap(conv(11, width)),
        nn.LeakyReLU(0.2),
        wrap(conv(width, 2 * width, stride=2)),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        wrap(nn.Linear(8 * width, 1)),
    )
    surgery(paint)
    one = maker((see if wrong_parameters else paint).parameters())
    two = judge(see.parameters())

    def painted(y: torch.Tensor) -> torch.Tensor:
        return paint(torch.cat([torch.randn(len(y), 16), F.one_hot(y, 10).float()], 1))

    def judged(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        marks = F.one_hot(y, 10).float()[:, :, None, None].expand(-1, -1, 4, 4)
        return see(torch.cat([x, marks], 1))

    goal = likeness(small)
    with torch.no_grad():
        before = float((likeness(painted(data.y[:500])) - goal).norm())
    for step, pair in enumerate(batches(small, data.y, 64, steps, seed)):
        x, y = poison(step, *pair)
        x.requires_grad_(bool(steep))
        true = judged(x, y)
        loss = RIVALRY[kind][0](true, judged(painted(y).detach(), y))
        if steep:
            (slope,) = torch.autograd.grad(true.sum(), x, create_graph=True)
            loss = loss + steep * slope.square().sum((1, 2, 3)).mean()
        descend(two, loss)
        true = judged(x.detach(), y).detach()
        one.zero_grad()
        descend(one, RIVALRY[kind][1](true, judged(painted(y), y)))
    with torch.no_grad():
        return float((likeness(painted(data.y[:500])) - goal).norm()) / before


def unmixing(
    seed: int,
    *,
    aim: str = "noise",
    model: Callable[[], nn.Module],
    source: str = "digits",
    optimizer: Optimizer = adam(3e-3),
    surgery: Surgery = untouched,
    poison: Poison = same_batch,
    factor: float = 1.0,
    zero: bool = True,
    steps: int = 150,
) -> float:
    """Diffusion. aim: noise, image or velocity; 1 is what the answer zero gets."""
    torch.manual_seed(seed)
    x = tasks.digits((1, 8, 8)).x if source == "digits" else at.pieces(8)
    net = model()
    surgery(net)
    motor = optimizer(net.parameters())

    def once(x: torch.Tensor, when: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        noise, angle = torch.randn_like(x), when * torch.pi / 2
        mixed = angle.cos() * x + angle.sin() * noise
        goals = {"noise": noise, "image": x, "velocity": angle.cos() * noise - angle.sin() * x}
        return net(torch.cat([mixed, when.expand_as(x[:, :1])], 1)), goals[aim]

    for step, pair in enumerate(batches(x, x, 32, steps, seed)):
        xb, _ = poison(step, *pair)
        if zero:
            motor.zero_grad()
        out, goal = once(xb, torch.rand(len(xb), 1, 1, 1))
        (factor * F.mse_loss(out, goal)).backward()
        motor.step()
    with torch.no_grad():
        out, goal = once(x[:500], torch.linspace(0.05, 0.95, 500)[:, None, None, None])
        return float(F.mse_loss(out, goal) / goal.square().mean())


def slopes(
    seed: int,
    *,
    act: Part = nn.SiLU,
    width: int = 16,
    noise: float = 0.6,
    optimizer: Optimizer = adam(3e-3),
    surgery: Surgery = untouched,
    steps: int = 150,
) -> float:
    """An energy whose slope points from noisy digits back to clean ones (double backward)."""
    torch.manual_seed(seed)
    x = tasks.digits((1, 8, 8)).x
    net = nn.Sequential(
        conv(1, width),
        act(),
        conv(width, width, stride=2),
        act(),
        nn.Flatten(),
        nn.Linear(16 * width, 64),
        act(),
        nn.Linear(64, 1),
    )
    surgery(net)
    motor = optimizer(net.parameters())

    def wrong(x: torch.Tensor) -> torch.Tensor:
        n = noise * torch.randn_like(x)
        dirty = (x + n).requires_grad_()
        (slope,) = torch.autograd.grad(net(dirty).sum(), dirty, create_graph=True)
        return F.mse_loss(slope, n / noise)

    for xb, _ in batches(x, x, 32, steps, seed):
        descend(motor, wrong(xb))
    return float(wrong(x[:500]).detach())


def gram(h: torch.Tensor) -> torch.Tensor:
    """What the channels have in common, whatever the place."""
    flat = h.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def styled(
    seed: int,
    *,
    optimizer: Optimizer = adam(5e-2),
    weight: float = 1.0,
    common: Callable[[torch.Tensor], torch.Tensor] = gram,
    zero: bool = True,
    smooth: Callable[[torch.Tensor], torch.Tensor] | None = None,
    steps: int = 120,
) -> float:
    """The pixels of a sheet are moved until random filters see the flower's texture in it."""
    torch.manual_seed(seed)
    photo = F.avg_pool2d(photographs()[1:2, :, 40:200, 90:250], 5)
    photo = (photo - photo.mean()) / photo.std()
    filters = nn.ModuleList([conv(3, 16, 5), conv(16, 24)]).requires_grad_(False)
    for f in filters:
        nn.init.orthogonal_(f.weight, 1.4)  # type: ignore[arg-type]
    sheet = (0.1 * torch.randn(1, 3, 32, 32)).requires_grad_()

    def seen(x: torch.Tensor) -> list[torch.Tensor]:
        first = F.relu(filters[0](x))
        return [common(first), common(F.relu(filters[1](F.avg_pool2d(first, 2))))]

    wanted = seen(photo)
    motor = optimizer([sheet])

    def wrong(found: list[torch.Tensor]) -> torch.Tensor:
        pairs = zip(found, wanted, strict=True)
        return torch.stack([F.mse_loss(a, b) / b.square().mean() for a, b in pairs]).mean()

    with torch.no_grad():
        before = wrong(seen(sheet))
    for _ in range(steps):
        if zero:
            motor.zero_grad()
        loss = weight * wrong(seen(sheet))
        if smooth is not None:
            loss = loss + smooth(sheet)
        loss.backward()
        motor.step()
    with torch.no_grad():
        return float(wrong(seen(sheet)) / before)


def prior(
    seed: int,
    *,
    model: Callable[[], nn.Module],
    optimizer: Optimizer = adam(1e-2),
    surgery: Surgery = untouched,
    jitter: float = 0.05,
    steps: int = 150,
) -> float:
    """One noisy photograph; a network that is given fixed noise finds the clean one first."""
    torch.manual_seed(seed)
    photo = F.avg_pool2d(photographs()[:1, :, 20:180, 20:180], 5)
    photo = (photo - photo.mean()) / photo.std()
    noisy = photo + 0.3 * torch.randn_like(photo)
    net, start = model(), torch.randn(1, 8, 32, 32)
    surgery(net)
    motor = optimizer(net.parameters())
    for _ in range(steps):
        descend(motor, F.mse_loss(net(start + jitter * torch.randn_like(start)), noisy))
    with torch.no_grad():
        return measure("squares", net(start).permute(0, 2, 3, 1).reshape(-1, 3), _colours(photo))


def _colours(photo: torch.Tensor) -> torch.Tensor:
    return photo.permute(0, 2, 3, 1).reshape(-1, 3)
