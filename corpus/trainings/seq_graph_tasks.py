"""Graphs as tasks: whole ones, and one whose nodes are the samples."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import networkx as nx
import torch
import torch.nn.functional as F

from corpus.trainings.seq_tasks import shuffled
from corpus.trainings.tasks import Loss, Task

ATLAS: dict[str, Callable[[Any], float]] = {
    "triangles": lambda g: sum(nx.triangles(g).values()) / 3,
    "diameter": nx.diameter,
    "spanning": lambda g: float(nx.number_of_spanning_trees(g)),
    "wiener": nx.wiener_index,
}


@cache
def atlas(asked: str = "triangles", raw: bool = False, loss: Loss = F.mse_loss) -> Task:
    """All connected graphs of five to seven nodes as matrices [N, 7, 7]; a number of each."""
    graphs = [g for g in nx.graph_atlas_g() if len(g) > 4 and nx.is_connected(g)]
    order = shuffled(len(graphs))
    x = torch.zeros(len(graphs), 7, 7)
    for row, i in zip(x, order, strict=True):
        size = len(graphs[i])
        row[:size, :size] = torch.tensor(nx.to_numpy_array(graphs[i]), dtype=torch.float32)
    y = torch.tensor([[float(ATLAS[asked](graphs[i]))] for i in order])
    return Task(x, y if raw else (y - y.mean()) / y.std(), loss, 1, "squares")


def both_ways(pairs: list[tuple[int, int]]) -> torch.Tensor:
    """Edges [2, E] in both directions."""
    one = torch.tensor(pairs).T
    return torch.cat([one, one.flip(0)], 1).unique(dim=1)


@cache
def syntax(metric: str = "entropy") -> Task:
    """The syntax tree of a module: nodes know how many children and grandchildren they have and
    what kind stands below and above; the answer is their own kind, of twelve."""
    tree = ast.parse(inspect.getsource(json.decoder))
    nodes = list({id(n): n for n in ast.walk(tree)}.values())
    number = {id(n): i for i, n in enumerate(nodes)}
    seen: set[tuple[int, int]] = set()
    for n in nodes:
        seen |= {(number[id(n)], number[id(c)]) for c in ast.iter_child_nodes(n)}
    pairs = sorted(p for p in seen if p[0] != p[1])
    names = [type(n).__name__ for n in nodes]
    common = sorted(set(names), key=lambda k: (-names.count(k), k))[:11]
    y = torch.tensor([common.index(k) if k in common else 11 for k in names])
    x = torch.zeros(len(nodes), 14)
    for i, n in enumerate(nodes):
        below = list(ast.iter_child_nodes(n))
        x[i, 0] = len(below)
        x[i, 1] = getattr(n, "col_offset", -20) / 20
    for one, two in pairs:
        x[one, 2 + y[two]] += 1
    return Task(x, y, F.cross_entropy, 12, metric, edges=both_ways(pairs))


@cache
def novel(metric: str = "entropy") -> Task:
    """Who meets whom in Les Miserables: a node's place as itself; the answer is its circle."""
    g = nx.les_miserables_graph()
    names = sorted(g)
    circles = nx.community.greedy_modularity_communities(g)
    y = torch.tensor([next(i for i, c in enumerate(circles) if n in c) for n in names])
    edges = both_ways([(names.index(a), names.index(b)) for a, b in g.edges])
    return Task(torch.eye(len(names)), y, F.cross_entropy, len(circles), metric, edges=edges)


@cache
def club() -> Task:
    """Zachary's karate club: which of the two men a member followed."""
    g = nx.karate_club_graph()
    y = torch.tensor([int(g.nodes[i]["club"] != "Mr. Hi") for i in range(34)])
    return Task(torch.eye(34), y, F.cross_entropy, 2, edges=both_ways([*g.edges]))


@cache
def ranks() -> Task:
    """Les Miserables again: the logarithm of how often each one meets others, from shares."""
    g = nx.les_miserables_graph()
    names = sorted(g)
    closeness, clustering = nx.closeness_centrality(g), nx.clustering(g)
    x = torch.tensor([[closeness[n], clustering[n], g.degree[n] / 10] for n in names])
    y = torch.tensor([[float(g.degree(n, weight="weight"))] for n in names]).log()
    edges = both_ways([(names.index(a), names.index(b)) for a, b in g.edges])
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    return Task(x, y, F.mse_loss, 1, "squares", edges=edges)
