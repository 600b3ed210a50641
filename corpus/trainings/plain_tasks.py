"""Tables that travel inside packages and the standard library, as tasks on vectors."""

from __future__ import annotations

import ast
import colorsys
import csv
import gzip
import importlib
import inspect
import math
import pydoc_data.topics
import unicodedata
import zlib
from functools import cache
from importlib.resources import files

import numpy as np
import torch
import torch.nn.functional as F
from sklearn import datasets

from corpus.trainings.tasks import Loss, Task

CONTINENTS = ("Africa", "Americas", "Asia", "Europe", "Oceania")


def standard(x: torch.Tensor) -> torch.Tensor:
    """Mean zero and spread one for each column."""
    return (x - x.mean(0)) / x.std(0)


def shuffled(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """All in the same new order."""
    order = torch.randperm(len(tensors[0]), generator=torch.Generator().manual_seed(5))
    return tuple(t[order] for t in tensors)


@cache
def _rows(name: str) -> list[dict[str, str]]:
    path = files("plotly") / "package_data" / "datasets" / f"{name}.csv.gz"
    with gzip.open(str(path), "rt", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def _column(rows: list[dict[str, str]], name: str) -> torch.Tensor:
    return torch.tensor([float(r[name]) for r in rows])


@cache
def nations() -> dict[str, torch.Tensor]:
    """Gapminder's 1704 rows: life, pop, gdp, year, lon, lat, country and continent."""
    rows = _rows("gapminder")
    names = sorted({r["country"] for r in rows})
    long = {"lifeExp": "life", "gdpPercap": "gdp", "centroid_lon": "lon", "centroid_lat": "lat"}
    data = {long.get(k, k): _column(rows, k) for k in ("lifeExp", "pop", "gdpPercap", "year")}
    data |= {long[k]: _column(rows, k) for k in ("centroid_lon", "centroid_lat")}
    data["country"] = torch.tensor([names.index(r["country"]) for r in rows])
    data["continent"] = torch.tensor([CONTINENTS.index(r["continent"]) for r in rows])
    return data


def life(raw: bool = False, loss: Loss = F.mse_loss) -> Task:
    """Life expectancy (standardised) from year, place, population and wealth; raw: as printed."""
    d = nations()
    size = (d["pop"], d["gdp"]) if raw else (d["pop"].log(), d["gdp"].log())
    x = torch.stack([d["year"], d["lon"], d["lat"], *size], 1)
    x, y = shuffled(x if raw else standard(x), standard(d["life"][:, None]))
    return Task(x, y, loss, 1, "squares")


def continent(metric: str = "entropy", loss: Loss = F.cross_entropy) -> Task:
    """Which of five continents, from year, life expectancy, population and wealth."""
    d = nations()
    x = torch.stack([d["year"], d["life"], d["pop"].log(), d["gdp"].log()], 1)
    x, y = shuffled(standard(x), d["continent"])
    return Task(x, y, loss, 5, metric)


def wealth(loss: Loss = F.mse_loss) -> Task:
    """Dollars a head in thousands (heavy-tailed) from all the rest, continents one-hot."""
    d = nations()
    x = standard(torch.stack([d["year"], d["lon"], d["lat"], d["pop"].log(), d["life"]], 1))
    x = torch.cat([x, F.one_hot(d["continent"], 5).float()], 1)
    x, y = shuffled(x, d["gdp"][:, None] / 1000)
    return Task(x, y, loss, 1, "squares")


def country_year(loss: Loss = F.mse_loss) -> Task:
    """Life expectancy from two tokens [N, 2]: the country and the year."""
    d = nations()
    tokens = torch.stack([d["country"], 142 + (d["year"].long() - 1952) // 5], 1)
    x, y = shuffled(tokens, standard(d["life"][:, None]))
    return Task(x, y, loss, 1, "squares", size=154)


def histories() -> torch.Tensor:
    """Life, log wealth and log population of 142 countries over 12 years [142, 12, 3]."""
    d = nations()
    flat = torch.stack([d["life"], d["gdp"].log(), d["pop"].log()], 1)
    return standard(flat).view(142, 12, 3)


def tips(loss: Loss = F.mse_loss) -> Task:
    """The tip (standardised) from the bill, the company and seven yes-or-no columns."""
    rows = _rows("tips")
    kinds = {"sex": "Male", "smoker": "Yes", "time": "Dinner"}
    x = [_column(rows, "total_bill"), _column(rows, "size")]
    x += [torch.tensor([float(r[k] == v) for r in rows]) for k, v in kinds.items()]
    x += [torch.tensor([float(r["day"] == d) for r in rows]) for d in ("Thur", "Fri", "Sat", "Sun")]
    a, b = shuffled(standard(torch.stack(x, 1)), standard(_column(rows, "tip")[:, None]))
    return Task(a, b, loss, 1, "squares")


def cars() -> Task:
    """Hours that shared cars are used (in logs, standardised) from place and busiest hour."""
    rows = _rows("carshare")
    hour = _column(rows, "peak_hour") * 2 * math.pi / 24
    x = torch.stack([_column(rows, "centroid_lat"), _column(rows, "centroid_lon")], 1)
    x = torch.cat([standard(x), torch.stack([hour.sin(), hour.cos()], 1)], 1)
    x, y = shuffled(x, standard(_column(rows, "car_hours")[:, None].log1p()))
    return Task(x, y, F.mse_loss, 1, "squares")


def painting(columns: int = 5, unit: float = 1.0) -> Task:
    """Digits side by side as one picture: the ink (-1 to 1) at places [N, 2] within `unit`."""
    data = torch.tensor(datasets.load_digits().images[: columns * 4], dtype=torch.float32)
    image = torch.cat([torch.cat(list(row), 1) for row in data.view(4, columns, 8, 8)])
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 8 * columns))
    x, y = shuffled(grid * unit, image.reshape(-1, 1) / 8 - 1)
    return Task(x, y, F.mse_loss, 1, "squares")


@cache
def _colours() -> tuple[torch.Tensor, torch.Tensor]:
    """Red, green, blue (0 to 255) of every colour in plotly's scales, and its hue (0 to 1)."""
    found = set()
    for name in ("sequential", "diverging", "qualitative", "cmocean", "carto", "colorbrewer"):
        module = importlib.import_module(f"_plotly_utils.colors.{name}")
        lists = [v for v in vars(module).values() if isinstance(v, list)]
        found |= {c for scale in lists for c in scale if str(c).startswith("rgb(")}
    rgb = [[float(n) for n in c[4:-1].split(",")] for c in sorted(found)]
    hue = [colorsys.rgb_to_hsv(*(n / 255 for n in c))[0] for c in rgb]
    a, b = shuffled(torch.tensor(rgb), torch.tensor(hue))
    return a, b


def hues(raw: bool = False, metric: str = "entropy") -> Task:
    """The hue of plotly's colours in eight sectors from red, green, blue; raw: 0 to 255."""
    rgb, hue = _colours()
    sector = (hue * 8).long().clamp_max(7)
    return Task(rgb if raw else standard(rgb), sector, F.cross_entropy, 8, metric)


def echo(name: str, loss: Loss = F.mse_loss) -> Task:
    """Rows to be given back: breast_cancer [569, 30], histories [142, 36] or functions."""
    if name == "histories":
        (x,) = shuffled(histories().flatten(1))
    elif name == "functions":
        x = functions().x
    else:
        x = standard(torch.tensor(np.asarray(datasets.load_breast_cancer().data)).float())
    return Task(x, x, loss, x.shape[1], "squares")


@cache
def _names() -> tuple[torch.Tensor, torch.Tensor]:
    groups = ("L", "S", "N", "P", "M")
    x, y = [], []
    for code in range(0x20, 0x3000, 3):
        name = unicodedata.name(chr(code), "")
        group = unicodedata.category(chr(code))[0]
        if not name or group not in groups:
            continue
        grams = [zlib.crc32(name[i : i + 3].encode()) % 300 for i in range(len(name) - 2)]
        x.append((grams * 12)[:12] if grams else [0] * 12)
        y.append(groups.index(group))
    a, b = shuffled(torch.tensor(x), torch.tensor(y))
    return a, b


def names(bag: bool = False, metric: str = "entropy", loss: Loss = F.cross_entropy) -> Task:
    """A character's group (letter, sign, number ...) from its name: 12 hashed trigrams or a bag."""
    x, y = _names()
    if bag:
        x = torch.zeros(len(x), 300).scatter_add_(1, x, torch.ones(x.shape))
    return Task(x, y, loss, 5, metric, size=300)


KINDS = (ast.Call, ast.Name, ast.Attribute, ast.Assign, ast.If, ast.For, ast.Return, ast.Constant,
         ast.Compare, ast.BinOp, ast.Raise, ast.Try, ast.Subscript, ast.arg, ast.Expr)  # fmt: skip


@cache
def _functions() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = [], []
    for name in ("argparse", "inspect", "typing", "pathlib", "tarfile", "doctest", "pydoc"):
        for node in ast.walk(ast.parse(inspect.getsource(importlib.import_module(name)))):
            if isinstance(node, ast.FunctionDef):
                inside = list(ast.walk(node))
                x.append([float(sum(isinstance(n, k) for n in inside)) for k in KINDS])
                y.append([float((node.end_lineno or node.lineno) - node.lineno + 1)])
    a, b = shuffled(torch.tensor(x), torch.tensor(y))
    return a, b


def functions(raw: bool = False, loss: Loss = F.mse_loss, unit: float = 1.0) -> Task:
    """Lines of a function of the standard library from counts of what is in it; raw: counts."""
    x, y = _functions()
    return Task(x if raw else standard(x.log1p()), y / unit, loss, 1, "squares")


@cache
def lifetimes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Words of Python's manual: letters [N, 28], words until the next one, was there a next."""
    split = "\n".join(v for _, v in sorted(pydoc_data.topics.topics.items()))[:60_000].split()
    at: dict[str, list[int]] = {}
    for i, word in enumerate(split):
        at.setdefault(word, []).append(i)
    x, wait, seen = [], [], []
    for word, places in sorted(at.items()):
        letters = [float(word.lower().count(chr(97 + k))) for k in range(26)]
        x.append([*letters, float(len(word)), float(word[0].isupper())])
        seen.append(float(len(places) > 1))
        wait.append(float((places[1] if len(places) > 1 else len(split)) - places[0]))
    return shuffled(standard(torch.tensor(x)), torch.tensor(wait), torch.tensor(seen))  # type: ignore[return-value]


def acquaintances(name: str = "les_miserables_graph") -> tuple[torch.Tensor, torch.Tensor]:
    """A graph of networkx: its adjacency [N, N] and the pairs that are joined [E, 2]."""
    import networkx

    graph = getattr(networkx, name)()
    matrix = torch.tensor(networkx.to_numpy_array(graph), dtype=torch.float32)
    return matrix, matrix.triu(1).nonzero()
