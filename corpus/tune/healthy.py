"""Healthy trainings of feed-forward networks, on digits and tables, in many styles."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from corpus import fast_healthy_case, healthy_case
from corpus.data import Pair, batches, digits, share, table


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    pairs: Iterable[Pair],
    loss_function: object = F.cross_entropy,
) -> None:
    """The loop that everybody writes."""
    for x, y in pairs:
        optimizer.zero_grad()
        loss = loss_function(model(x), y)  # type: ignore[operator]
        loss.backward()
        optimizer.step()


@fast_healthy_case
def mlp_relu_sgd(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    fit(model, torch.optim.SGD(model.parameters(), lr=0.1), batches(x, y, 64, 250, seed))
    return share(model, x, y)


@healthy_case
def mlp_gelu_adamw_loader(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = nn.Sequential(
        nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 96), nn.GELU(), nn.Linear(96, 10)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)
    for _ in range(5):
        for xb, yb in loader:
            loss = F.cross_entropy(model(xb), yb)
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            optimizer.step()
    return share(model, x, y)


class TanhNet(nn.Module):
    """Six tanh layers in a ModuleList, Xavier initialised."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [64] + [64] * 6
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.out = nn.Linear(64, 10)
        for layer in self.hidden:
            nn.init.xavier_normal_(layer.weight, gain=nn.init.calculate_gain("tanh"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.hidden:
            x = torch.tanh(layer(x))
        return self.out(x)


@fast_healthy_case
def mlp_tanh_momentum(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = TanhNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    fit(model, optimizer, batches(x, y, 64, 200, seed))
    return share(model, x, y)


@healthy_case
def mlp_ten_relu_kaiming(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    layers: list[nn.Module] = []
    for i in range(10):
        linear = nn.Linear(64, 64)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU(inplace=bool(i % 2))]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    fit(model, torch.optim.Adam(model.parameters(), lr=1e-3), batches(x, y, 64, 250, seed))
    return share(model, x, y)


@healthy_case
def mlp_ten_torch_default(seed: int) -> float:
    """torch's default initialisation at ten layers: the gradient shrinks, and Adam learns it."""
    torch.manual_seed(seed)
    x, y = digits()
    parts: list[nn.Module] = []
    for _ in range(9):
        parts += [nn.Linear(64, 64), nn.ReLU()]
    model = nn.Sequential(*parts, nn.Linear(64, 10))
    fit(model, torch.optim.Adam(model.parameters(), lr=2e-3), batches(x, y, 64, 300, seed))
    return share(model, x, y)


@healthy_case
def mlp_selu_eight(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    parts: list[nn.Module] = []
    for _ in range(8):
        linear = nn.Linear(64, 64)
        nn.init.normal_(linear.weight, std=64**-0.5)
        nn.init.zeros_(linear.bias)
        parts += [linear, nn.SELU()]
    model = nn.Sequential(*parts, nn.Linear(64, 10))
    fit(model, torch.optim.SGD(model.parameters(), lr=0.05), batches(x, y, 64, 250, seed))
    return share(model, x, y)


@healthy_case
def mlp_sigmoid_shallow(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.Sigmoid(), nn.Linear(64, 10))
    fit(model, torch.optim.SGD(model.parameters(), lr=0.5), batches(x, y, 64, 250, seed))
    return share(model, x, y)


@healthy_case
def mlp_sigmoid_three_adam(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = nn.Sequential(
        nn.Linear(64, 64), nn.Sigmoid(), nn.Linear(64, 64), nn.Sigmoid(), nn.Linear(64, 10)
    )
    fit(model, torch.optim.Adam(model.parameters(), lr=5e-3), batches(x, y, 64, 300, seed))
    return share(model, x, y)


@healthy_case
def logistic_regression_wine(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = table("wine")
    model = nn.Linear(13, 3)
    fit(model, torch.optim.SGD(model.parameters(), lr=0.1), [(x, y)] * 150)
    return share(model, x, y)


@healthy_case
def regression_mse_diabetes(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = table("diabetes")
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    fit(model, optimizer, batches(x, y, 32, 250, seed), F.mse_loss)
    return share(model, x, y)


@healthy_case
def regression_huber_rmsprop(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = table("diabetes")
    model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=2e-3)
    fit(model, optimizer, batches(x, y, 32, 250, seed), nn.HuberLoss())
    return share(model, x, y)


@healthy_case
def regression_unscaled_target(seed: int) -> float:
    """Targets of mean 150: the first steps learn the mean and the loss falls by a factor of 8."""
    torch.manual_seed(seed)
    x, y = table("diabetes")
    raw = y * 77 + 152
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    fit(model, optimizer, batches(x, raw, 64, 300, seed), F.mse_loss)
    with torch.no_grad():
        return float(F.mse_loss(model(x), raw) / raw.var())


@fast_healthy_case
def multilabel_bce(seed: int) -> float:
    """Three questions on one digit: even, above four, has a loop."""
    torch.manual_seed(seed)
    x, y = digits()
    loops = torch.isin(y, torch.tensor([0, 6, 8, 9]))
    labels = torch.stack([y % 2 == 0, y > 4, loops], 1).float()
    model = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(), nn.Linear(64, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    fit(model, optimizer, batches(x, labels, 64, 200, seed), F.binary_cross_entropy_with_logits)
    with torch.no_grad():
        return float(F.binary_cross_entropy_with_logits(model(x), labels)) / 0.69


@healthy_case
def binary_sigmoid_bce_loss(seed: int) -> float:
    """A sigmoid at the output with BCELoss, which expects it."""
    torch.manual_seed(seed)
    x, y = table("breast_cancer")
    model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    fit(model, optimizer, batches(x, y.float()[:, None], 32, 150, seed), nn.BCELoss())
    with torch.no_grad():
        return float(F.binary_cross_entropy(model(x)[:, 0], y.float())) / 0.66


@healthy_case
def log_softmax_nll(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), nn.LogSoftmax(dim=1))
    fit(model, torch.optim.Adam(model.parameters()), batches(x, y, 64, 250, seed), nn.NLLLoss())
    return share(model, x, y)


@healthy_case
def class_imbalance(seed: int) -> float:
    """Is it an eight? 3 % of the samples."""
    torch.manual_seed(seed)
    x, y = digits()
    keep = (y != 8) | (torch.rand(len(y)) < 0.3)
    x, y = x[keep], (y[keep] == 8).long()
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 2))
    fit(model, torch.optim.Adam(model.parameters(), lr=2e-3), batches(x, y, 64, 250, seed))
    return share(model, x, y)


@healthy_case
def label_noise(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    noisy = torch.where(torch.rand(len(y)) < 0.2, torch.randint(10, (len(y),)), y)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    fit(model, torch.optim.Adam(model.parameters(), lr=2e-3), batches(x, noisy, 64, 250, seed))
    return share(model, x, y)


@fast_healthy_case
def tiny_batches(seed: int) -> float:
    """Batches of four: the loss jumps by a factor of ten from step to step."""
    torch.manual_seed(seed)
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    fit(model, torch.optim.SGD(model.parameters(), lr=0.02), batches(x, y, 4, 300, seed))
    return share(model, x, y)


@healthy_case
def dropout_half(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = nn.Sequential(
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )
    fit(model, torch.optim.Adam(model.parameters(), lr=2e-3), batches(x, y, 64, 250, seed))
    return share(model, x, y)


@healthy_case
def heavy_weight_decay(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01, momentum=0.5)
    fit(model, optimizer, batches(x, y, 64, 250, seed))
    return share(model, x, y)


@fast_healthy_case
def raw_pixels(seed: int) -> float:
    """Pixels of 0 to 16 as they are: not tidy, but it trains."""
    torch.manual_seed(seed)
    x, y = digits(raw=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    fit(model, torch.optim.Adam(model.parameters(), lr=1e-3), batches(x, y, 64, 250, seed))
    return share(model, x, y)


@healthy_case
def raw_pixels_255(seed: int) -> float:
    """Pixels of 0 to 255, Adam."""
    torch.manual_seed(seed)
    x, y = digits(raw=True)
    x = x * (255 / 16)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    fit(model, torch.optim.Adam(model.parameters(), lr=1e-3), batches(x, y, 64, 250, seed))
    return share(model, x, y)


@healthy_case
def sparse_binary_input(seed: int) -> float:
    """Pixels thresholded to 0 and 1, three quarters of them 0."""
    torch.manual_seed(seed)
    x, y = digits(raw=True)
    x = (x > 10).float()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    fit(model, torch.optim.Adam(model.parameters(), lr=3e-3), batches(x, y, 64, 250, seed))
    return share(model, x, y)


@healthy_case
def double_precision(seed: int) -> float:
    torch.manual_seed(seed)
    x, y = digits()
    x = x.double()
    model = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 10)).double()
    fit(model, torch.optim.Adam(model.parameters(), lr=2e-3), batches(x, y, 64, 200, seed))
    return share(model, x, y)
