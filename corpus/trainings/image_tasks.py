"""Tasks on pieces of two photographs and on digits that were moved, halved, paired or buried."""

from __future__ import annotations

from functools import cache
from itertools import permutations

import torch
import torch.nn.functional as F

from corpus.trainings.image_photos import photographs
from corpus.trainings.tasks import Loss, Task, digits


def _dice(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def _pieces(size: int, count: int = 1500) -> tuple[torch.Tensor, torch.Tensor]:
    """Random pieces [N, 3, size, size] of both photographs, and picture, row, column [N, 3]."""
    photos = photographs()
    dice = _dice(5)
    which = torch.randint(2, (count,), generator=dice)
    row = torch.randint(213 - size, (count,), generator=dice)
    column = torch.randint(320 - size, (count,), generator=dice)
    step = torch.arange(size)
    at = (row[:, None] + step)[:, :, None], (column[:, None] + step)[:, None, :]
    pieces = photos[which[:, None, None], :, at[0], at[1]].permute(0, 3, 1, 2)
    return pieces, torch.stack([which, row, column], 1)


def pieces(size: int = 8, raw: bool = False) -> torch.Tensor:
    """The pieces standardised as one, or (raw) from 0 to 1."""
    x = _pieces(size)[0]
    return x.clone() if raw else (x - x.mean()) / x.std()


def place(size: int = 8, cells: int = 3, loss: Loss = F.cross_entropy, raw: bool = False) -> Task:
    """From which of 2 cells^2 parts of the photographs a piece was taken."""
    at = _pieces(size)[1]
    y = (at[:, 0] * cells + at[:, 1] * cells // 213) * cells + at[:, 2] * cells // 320
    return Task(pieces(size, raw), y, loss, 2 * cells * cells)


def picture(size: int = 4, loss: Loss = F.binary_cross_entropy_with_logits) -> Task:
    """Temple or flower, as zero or one."""
    return Task(pieces(size), _pieces(size)[1][:, :1].float(), loss, 1, "bits")


def turned(size: int = 12) -> Task:
    """By how many quarters a grey piece was turned."""
    x = pieces(size).mean(1, keepdim=True)
    y = torch.randint(4, (len(x),), generator=_dice(6))
    x = torch.stack([torch.rot90(p, int(k), (1, 2)) for p, k in zip(x, y, strict=True)])
    return Task(x, y, F.cross_entropy, 4)


def clearer(size: int = 8, noise: float = 0.5, grey: bool = False, loss: Loss = F.mse_loss) -> Task:
    """Pieces to be freed of noise."""
    y = pieces(size)
    y = y.mean(1, keepdim=True) if grey else y
    x = y + noise * torch.randn(y.shape, generator=_dice(7))
    return Task(x, y, loss, y.shape[1], "squares")


def larger(size: int = 8, loss: Loss = F.mse_loss) -> Task:
    """Pieces of half the size, to be enlarged."""
    y = pieces(size)
    return Task(F.avg_pool2d(y, 2), y, loss, 3, "squares")


def coloured(size: int = 8, loss: Loss = F.mse_loss) -> Task:
    """Grey pieces; the answer is what of red and blue goes beyond grey."""
    x = pieces(size)
    grey = x.mean(1, keepdim=True)
    return Task(grey, (x - grey)[:, ::2] * 2, loss, 2, "squares")


def filled(size: int = 8, loss: Loss = F.mse_loss) -> Task:
    """Pieces whose middle is hidden (the last channel says where); the answer is the middle."""
    y = pieces(size)
    hole = torch.zeros(len(y), 1, size, size)
    a, b = size // 4, size - size // 4
    hole[:, :, a:b, a:b] = 1
    return Task(torch.cat([y * (1 - hole), hole], 1), y, loss, 3, "squares")


def rough(size: int = 8, noise: float = 0.2) -> Task:
    """Grey, noisy pieces; the answer says for each pixel whether there is much contrast."""
    grey = pieces(size).mean(1, keepdim=True)
    wide = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    steep = (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]).abs()
    steep = steep + (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]).abs()
    x = grey + noise * torch.randn(grey.shape, generator=_dice(8))
    y = (steep > steep.quantile(0.7)).float()
    return Task(x, y, F.binary_cross_entropy_with_logits, 1, "bits")


def pixel_loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of out [N, H, W, C] and y [N, H, W]."""
    return F.cross_entropy(out.flatten(0, 2), y.flatten())


def parts(size: int = 8) -> Task:
    """Pieces whose every pixel is dark, green, red or bright; answers [N, size, size]."""
    raw = _pieces(size)[0]
    bright = raw.mean(1)
    y = (raw[:, 0] > raw[:, 1]).long() + 1
    y = torch.where(bright < 0.2, 0, torch.where(bright > 0.7, 3, y))
    x = pieces(size).mean(1, keepdim=True)
    return Task(x, y, pixel_loss, 4)


def turned_digits() -> Task:
    """By how many quarters a digit was turned."""
    plain = digits((1, 8, 8))
    y = torch.randint(4, (len(plain.x),), generator=_dice(14))
    x = torch.stack([torch.rot90(p, int(k), (1, 2)) for p, k in zip(plain.x, y, strict=True)])
    return Task(x, y, F.cross_entropy, 4)


def jigsaw() -> Task:
    """The four quarters of a digit in one of 24 orders."""
    x = digits((1, 8, 8)).x
    orders = list(permutations(range(4)))
    y = torch.randint(24, (len(x),), generator=_dice(9))
    quarters = x.view(-1, 2, 4, 2, 4).transpose(2, 3).reshape(-1, 4, 4, 4)
    dealt = quarters[torch.arange(len(x))[:, None], torch.tensor(orders)[y]]
    x = dealt.view(-1, 2, 2, 4, 4).transpose(2, 3).reshape(-1, 1, 8, 8)
    return Task(x, y, F.cross_entropy, 24)


def canvas(where: int = 0, scale: int = 12, loss: Loss = F.mse_loss) -> Task:
    """A picture by its coordinates: [N, 2] from -1 to 1, and standardised colours [N, 3]."""
    photo = F.avg_pool2d(photographs()[where : where + 1], scale // 2)[0]
    h, w = photo.shape[1:]
    rows, columns = torch.linspace(-1, 1, h), torch.linspace(-1, 1, w)
    x = torch.cartesian_prod(rows, columns)
    y = photo.flatten(1).T
    order = torch.randperm(len(x), generator=_dice(10))
    y = ((y - y.mean()) / y.std())[order]
    return Task(x[order], y, loss, 3, "squares")


def buried(room: int = 14, noise: float = 0.4) -> Task:
    """A digit somewhere on a larger, noisy sheet."""
    plain = digits((1, 8, 8))
    dice = _dice(11)
    x = noise * torch.randn(len(plain.x), 1, room, room, generator=dice) - 0.8
    at = torch.randint(room - 7, (len(x), 2), generator=dice)
    for sheet, digit, (r, c) in zip(x, plain.x, at.tolist(), strict=True):
        sheet[:, r : r + 8, c : c + 8] += digit + 0.8
    return Task(x, plain.y, F.cross_entropy, 10)


def sums() -> Task:
    """Two digits side by side [N, 1, 8, 16]; the answer is their sum."""
    plain = digits((1, 8, 8))
    other = torch.randperm(len(plain.x), generator=_dice(12))
    x = torch.cat([plain.x, plain.x[other]], 3)
    return Task(x, plain.y + plain.y[other], F.cross_entropy, 19)


def overlaid(loss: Loss = F.binary_cross_entropy_with_logits) -> Task:
    """Two digits on top of each other; the answer names both, as ten times yes or no."""
    plain = digits((1, 8, 8))
    other = torch.randperm(len(plain.x), generator=_dice(13))
    y = F.one_hot(plain.y, 10) + F.one_hot(plain.y[other], 10)
    x = torch.maximum(plain.x, plain.x[other])
    return Task(x, y.clamp_max(1).float(), loss, 10, "bits")


def lower_half(loss: Loss = F.mse_loss) -> Task:
    """The upper half of a digit; the answer is the lower one."""
    x = digits((1, 8, 8)).x
    return Task(x[:, :, :4], x[:, :, 4:], loss, 1, "squares")


def rare() -> Task:
    """Digits of which nine of ten are zeros, ones and twos."""
    plain = digits((1, 8, 8))
    keep = (plain.y < 3) | (torch.arange(len(plain.y)) % 20 == 0)
    return Task(plain.x[keep], plain.y[keep], F.cross_entropy, 10)


def ink_moments(unit: float = 1.0) -> Task:
    """Where a digit's ink lies: the middle and its spread in rows and columns, standardised."""
    x = digits((1, 8, 8)).x
    ink = x - x.min()
    at = torch.arange(8.0)
    mass = ink.sum((1, 2, 3))
    found = []
    for side in (3, 2):
        line = ink.sum((1, side)) / mass[:, None]
        middle = (line * at).sum(1)
        found += [middle, ((line * at.square()).sum(1) - middle.square()).sqrt()]
    y = torch.stack(found, 1)
    return Task(x, unit * (y - y.mean(0)) / y.std(0), F.mse_loss, 4, "squares")
