"""Graphs by hand and with torch-geometric, and recommendation by factors."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import networkx as nx
import torch
import torch.nn.functional as F
from torch import nn

from corpus.recipes import Optimizer, Surgery, adam, untouched
from corpus.trainings import tasks
from corpus.trainings.fit import Build
from corpus.trainings.seq_graph_tasks import both_ways
from corpus.trainings.seq_tasks import shuffled
from corpus.trainings.tasks import Task

Maker = Callable[[], nn.Module]


@cache
def blocks(size: int = 60, spread: float = 1.5, inside: float = 0.12) -> Task:
    """Four groups that mostly meet their own; features [N, 8] are noisy; the group."""
    p = [[inside if i == j else inside / 12 for j in range(4)] for i in range(4)]
    g = nx.stochastic_block_model([size] * 4, p, seed=26)
    y = torch.arange(4).repeat_interleave(size)
    order = shuffled(len(y), 27)
    place = torch.argsort(order)
    edges = both_ways([(int(place[a]), int(place[b])) for a, b in g.edges])
    y = y[order]
    generator = torch.Generator().manual_seed(28)
    centres = torch.randn(4, 8, generator=generator)
    x = centres[y] + spread * torch.randn(len(y), 8, generator=generator)
    return Task(x, y, F.cross_entropy, 4, edges=edges)


class Gcn(nn.Module):
    """Kipf's network by hand: a normalised dense adjacency, dropout, `gc.i`, log-odds."""

    def __init__(
        self,
        task: Task,
        width: int,
        depth: int,
        act: Maker,
        norm: Callable[[int], nn.Module] | None,
        skip: bool,
        drop: float,
    ) -> None:
        super().__init__()
        n = len(task.x)
        a = torch.eye(n)
        assert task.edges is not None
        a[task.edges[0], task.edges[1]] = 1.0
        rate = a.sum(1).rsqrt()
        self.adj: torch.Tensor
        self.register_buffer("adj", rate[:, None] * a * rate)
        sizes = [task.x.shape[1], *[width] * depth]
        self.gc = nn.ModuleList(nn.Linear(p, q) for p, q in pairwise(sizes))
        self.acts = nn.ModuleList(act() for _ in self.gc)
        self.norms = nn.ModuleList(norm(width) if norm else nn.Identity() for _ in self.gc)
        self.dropout, self.between = nn.Dropout(drop), nn.Identity()
        self.last, self.end = nn.Linear(width, task.out), nn.Identity()
        self.skip = skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, (layer, act, norm) in enumerate(zip(self.gc, self.acts, self.norms, strict=True)):
            h = act(norm(self.adj @ layer(self.dropout(x))))
            x = x + h if self.skip and i else h
        return self.end(self.adj @ self.last(self.between(x)))


def gcn(
    width: int = 24,
    depth: int = 2,
    act: Maker = nn.ReLU,
    norm: Callable[[int], nn.Module] | None = None,
    skip: bool = False,
    drop: float = 0.0,
) -> Build:
    """Its maker."""
    return lambda task: Gcn(task, width, depth, act, norm, skip, drop)


class Convolved(nn.Module):
    """Layers of torch-geometric over the edges of the task, as in its introduction."""

    def __init__(self, task: Task, kind: str, width: int, depth: int, heads: int, drop: float):
        super().__init__()
        import torch_geometric.nn as pyg

        more = dict(heads=heads, dropout=drop) if heads > 1 else {}
        make, sizes = getattr(pyg, kind), [task.x.shape[1], *[width * heads] * depth]
        self.convs = nn.ModuleList(make(a, width, **more) for a in sizes[:-1])
        self.lin, self.between = nn.Linear(width * heads, task.out), nn.Identity()
        self.end: nn.Module = nn.Identity()
        self.edges: torch.Tensor
        self.register_buffer("edges", task.edges)
        self.drop, self.act = drop, F.elu if heads > 1 else F.relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = F.dropout(x, self.drop, self.training)
            x = self.act(conv(x, self.edges))
        return self.end(self.lin(self.between(x)))


def convolved(
    kind: str = "SAGEConv", width: int = 24, depth: int = 2, heads: int = 1, drop: float = 0.0
) -> Build:
    """Its maker; heads more than one for attention."""
    return lambda task: Convolved(task, kind, width, depth, heads, drop)


def few_labels(
    seed: int,
    *,
    task: Callable[[], Task] = blocks,
    model: Build,
    optimizer: Optimizer = adam(1e-2, weight_decay=5e-4),
    labelled: int = 80,
    surgery: Surgery = untouched,
    scale: float = 1.0,
    zero: bool = True,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.cross_entropy,
    steps: int = 120,
) -> float:
    """Transductive: all nodes are seen, few are labelled, the others are judged."""
    torch.manual_seed(seed)
    data = task()
    net = model(data)
    surgery(net)
    motor = optimizer(net.parameters())
    mask = torch.arange(len(data.x)) < labelled
    for _ in range(steps):
        net.train()
        if zero:
            motor.zero_grad()
        loss(net(scale * data.x)[mask], data.y[mask]).backward()
        motor.step()
    with torch.no_grad():
        return tasks.measure("entropy", net.eval()(scale * data.x)[~mask], data.y[~mask])


class GinNet(nn.Module):
    """GIN of torch-geometric over batches of graphs: convs.i, norms.i, a sum, lin1, lin2."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        from torch_geometric.nn import GINConv

        def inner(size: int) -> nn.Module:
            return nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Linear(width, width))

        self.convs = nn.ModuleList(GINConv(inner(width if i else 1)) for i in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(depth))
        self.lin1, self.lin2 = nn.Linear(width, width), nn.Linear(width, 1)
        self.between: nn.Module = nn.Identity()

    def forward(self, data: object) -> torch.Tensor:
        from torch_geometric.nn import global_add_pool

        x = data.x  # type: ignore[attr-defined]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x, data.edge_index)))  # type: ignore[attr-defined]
        x = global_add_pool(x, data.batch)  # type: ignore[attr-defined]
        return self.lin2(self.between(F.relu(self.lin1(x))))


def gin_loader(
    seed: int,
    *,
    width: int = 32,
    depth: int = 2,
    optimizer: Optimizer = adam(5e-3),
    surgery: Surgery = untouched,
    factor: float = 1.0,
    spoil: Callable[[int, torch.Tensor], torch.Tensor] = lambda step, y: y,
    zero: bool = True,
    count: int = 4,
) -> float:
    """torch-geometric's DataLoader; the mean squared degree of each graph."""
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader

    torch.manual_seed(seed)
    graphs = [g for g in nx.graph_atlas_g() if len(g) > 5 and nx.is_connected(g)]
    y = torch.tensor([float(sum(d * d for _, d in g.degree)) / len(g) for g in graphs])
    y = (y - y.mean()) / y.std()
    data = []
    for i in shuffled(len(graphs), 29)[:600].tolist():
        edges = both_ways([*graphs[i].edges])
        x = torch.ones(len(graphs[i]), 1)
        data.append(Data(x=x, edge_index=edges, y=y[i].view(1, 1)))
    net = GinNet(width, depth)
    surgery(net)
    motor, step = optimizer(net.parameters()), 0
    for _ in range(count):
        for batch in DataLoader(data[:480], batch_size=24, shuffle=True):
            if zero:
                motor.zero_grad()
            (factor * F.mse_loss(net(batch), spoil(step, batch.y.clone()))).backward()
            motor.step()
            step += 1
    with torch.no_grad():
        rest = next(iter(DataLoader(data[480:], batch_size=200)))
        return tasks.measure("squares", net.eval()(rest), rest.y)


class Factors(nn.Module):
    """Users and items as vectors whose product, with two leanings, is the rating."""

    def __init__(self, task: Task, width: int, spread: float, leaning: bool) -> None:
        super().__init__()
        items = int(task.x[:, 1].max()) + 1
        self.user_factors = nn.Embedding(task.size, width)
        self.item_factors = nn.Embedding(items, width)
        nn.init.normal_(self.user_factors.weight, std=spread)
        nn.init.normal_(self.item_factors.weight, std=spread)
        self.user_bias, self.item_bias = nn.Embedding(task.size, 1), nn.Embedding(items, 1)
        nn.init.zeros_(self.user_bias.weight)
        nn.init.zeros_(self.item_bias.weight)
        self.between, self.end = nn.Identity(), nn.Identity()
        self.leaning = leaning

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        user, item = x.unbind(1)
        told = self.between(self.user_factors(user)) * self.item_factors(item)
        told = told.sum(1, keepdim=True)
        if self.leaning:
            told = told + self.user_bias(user) + self.item_bias(item)
        return self.end(told)


def factors(width: int = 8, spread: float = 0.3, leaning: bool = True) -> Build:
    """Its maker."""
    return lambda task: Factors(task, width, spread, leaning)


class NeuMf(nn.Module):
    """Neural collaborative filtering: a product of factors beside an MLP on their row."""

    def __init__(self, task: Task, width: int, act: Maker, depth: int) -> None:
        super().__init__()
        items = int(task.x[:, 1].max()) + 1
        self.user_gmf, self.user_mlp = (nn.Embedding(task.size, width) for _ in range(2))
        self.item_gmf, self.item_mlp = (nn.Embedding(items, width) for _ in range(2))
        parts: list[nn.Module] = []
        for _ in range(depth):
            parts += [nn.Linear(2 * width, 2 * width), act()]
        self.mlp, self.between = nn.Sequential(*parts), nn.Identity()
        self.predict, self.end = nn.Linear(3 * width, task.out), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        user, item = x.unbind(1)
        both = torch.cat([self.user_mlp(user), self.item_mlp(item)], 1)
        product = self.user_gmf(user) * self.item_gmf(item)
        return self.end(self.predict(self.between(torch.cat([product, self.mlp(both)], 1))))


def neu_mf(width: int = 12, act: Maker = nn.ReLU, depth: int = 2) -> Build:
    """Its maker."""
    return lambda task: NeuMf(task, width, act, depth)
