"""Sequences, sets and series that travel inside packages or follow from a formula, as tasks."""

from __future__ import annotations

import argparse
import calendar
import csv
import datetime
import gzip
import importlib
import inspect
import io
import json
import marshal
import tokenize
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from corpus.trainings import tasks
from corpus.trainings.tasks import Loss, Task, token_loss


def shuffled(count: int, seed: int = 5) -> torch.Tensor:
    """An order that is always the same."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def spelled(words: list[str], length: int) -> tuple[torch.Tensor, int]:
    """Words as character ids [N, length], padded with zeros, and the size of the alphabet."""
    letters = {c: i + 1 for i, c in enumerate(sorted(set("".join(words))))}
    x = torch.zeros(len(words), length, dtype=torch.long)
    for row, word in zip(x, words, strict=True):
        cut = word[:length]
        row[: len(cut)] = torch.tensor([letters[c] for c in cut])
    return x, len(letters) + 1


@cache
def glyphs(length: int = 28, metric: str = "entropy", count: int = 2000) -> Task:
    """Names of Unicode characters; the answer is the kind of character (eight of them)."""
    kinds = ("Lu", "Ll", "Lo", "So", "Sm", "Mn", "Po", "Nd")
    found = [
        (unicodedata.name(c), kinds.index(unicodedata.category(c)))
        for c in map(chr, range(0x20, 0x3000))
        if unicodedata.category(c) in kinds and unicodedata.name(c, "")
    ]
    order = shuffled(len(found))[:count]
    x, size = spelled([found[i][0] for i in order], length)
    y = torch.tensor([found[i][1] for i in order])
    return Task(x, y, F.cross_entropy, 8, metric, size)


@cache
def identifiers(length: int = 14, metric: str = "entropy", count: int = 2400) -> Task:
    """What functions are called; the answer is the language (Lisp, Scilab, Stan, SourceMod)."""
    lists: dict[str, str] = {
        "_cl_builtins": "BUILTIN_FUNCTIONS",
        "_scilab_builtins": "functions_kw",
        "_stan_builtins": "FUNCTIONS",
        "_sourcemod_builtins": "FUNCTIONS",
    }
    found: list[tuple[str, int]] = []
    for label, (module, name) in enumerate(lists.items()):
        words = getattr(importlib.import_module(f"pygments.lexers.{module}"), name)
        found += [(w.lower(), label) for w in sorted(set(words))[:600]]
    order = shuffled(len(found))[:count]
    x, size = spelled([found[i][0] for i in order], length)
    return Task(x, torch.tensor([found[i][1] for i in order]), F.cross_entropy, 4, metric, size)


@cache
def dates(count: int = 1500) -> Task:
    """Dates in words, and behind them (from column 18 on) what was written; the same as numbers.

    x [N, 28]: "5 March 1987", then nine of the ten characters of "1987-03-05" behind a start.
    """
    start = datetime.date(1900, 1, 1)
    days = [start + datetime.timedelta(int(i)) for i in shuffled(45_000)[:count]]
    words = [f"{d.day} {calendar.month_name[d.month]} {d.year}".ljust(18) for d in days]
    marks = sorted(set("".join(words)) | set("0123456789-"))
    letters = {c: i + 1 for i, c in enumerate(marks)}
    asked = torch.tensor([[letters[c] for c in w] for w in words])
    told = torch.tensor([[letters[c] for c in d.isoformat()] for d in days])
    x = torch.cat([asked, torch.zeros(count, 1, dtype=torch.long), told[:, :-1]], 1)
    return Task(x, told, token_loss, len(letters) + 1, size=len(letters) + 1)


def _roman(n: int) -> str:
    text = ""
    for value, sign in zip(
        (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1),
        ("M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I"),
        strict=True,
    ):
        text += sign * (n // value)
        n %= value
    return text


@cache
def numerals(length: int = 15, digit: int = 2) -> Task:
    """Roman numerals up to 3999; the answer is one digit of the number (2: the tens)."""
    x, size = spelled([_roman(n) for n in range(1, 4000)], length)
    y = torch.arange(1, 4000) // 10 ** (digit - 1) % 10
    order = shuffled(len(x))[:2000]
    return Task(x[order], y[order], F.cross_entropy, 10, size=size)


KINDS = (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING, tokenize.COMMENT)


@cache
def tagged(length: int = 24, count: int = 1500) -> Task:
    """Windows of Python's own programs; the answer says for each character what it belongs to."""
    text = inspect.getsource(json.decoder) + inspect.getsource(tokenize)
    lines = [0, *np.cumsum([len(line) + 1 for line in text.split("\n")])]
    tags = torch.zeros(len(text) + 1, dtype=torch.long)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in KINDS:
            one = lines[token.start[0] - 1] + token.start[1]
            two = lines[token.end[0] - 1] + token.end[1]
            tags[one:two] = KINDS.index(token.type) + 1
    letters = {c: i for i, c in enumerate(sorted(set(text)))}
    ids = torch.tensor([letters[c] for c in text])
    at = shuffled(len(ids) - length)[:count, None] + torch.arange(length)
    return Task(ids[at], tags[at], token_loss, 6, size=len(letters))


@cache
def bytecode(length: int = 24, count: int = 1500) -> Task:
    """Bytes of a compiled module of Python's; the answer is the next byte."""
    raw = marshal.dumps(compile(inspect.getsource(argparse), "argparse", "exec"))
    ids = torch.tensor(list(raw[:60_000]))
    at = shuffled(len(ids) - length - 1)[:count, None] + torch.arange(length + 1)
    windows = ids[at]
    return Task(windows[:, :-1], windows[:, 1:], token_loss, 256, size=256)


def _runge(slope: object, start: Iterable[float], step: float, count: int) -> np.ndarray:
    """A path [count, D] by the fourth order method of Runge and Kutta."""
    path = [np.asarray(list(start), dtype=float)]
    f = slope
    for _ in range(count - 1):
        x = path[-1]
        a = f(x)  # type: ignore[operator]
        b = f(x + step / 2 * a)  # type: ignore[operator]
        c = f(x + step / 2 * b)  # type: ignore[operator]
        d = f(x + step * c)  # type: ignore[operator]
        path.append(x + step / 6 * (a + 2 * b + 2 * c + d))
    return np.stack(path)


def _lorenz(x: np.ndarray) -> np.ndarray:
    return np.array([10 * (x[1] - x[0]), x[0] * (28 - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]])


def _hares(x: np.ndarray) -> np.ndarray:
    return np.array([x[0] * (1.1 - 0.4 * x[1]), x[1] * (0.1 * x[0] - 0.4)])


def _valve(x: np.ndarray) -> np.ndarray:
    return np.array([x[1], 3.0 * (1 - x[0] ** 2) * x[1] - x[0]])


def _tides() -> np.ndarray:
    hours = np.arange(2000.0)
    parts = ((1.0, 12.4206), (0.46, 12.0), (0.19, 12.6583), (0.58, 23.9345), (0.41, 25.8193))
    height = sum(a * np.cos(2 * np.pi * hours / period + a) for a, period in parts)
    return np.asarray(height)[:, None]


def _mackey() -> np.ndarray:
    x = [1.2] * 18
    for _ in range(4000):
        x.append(0.9 * x[-1] + 0.2 * x[-18] / (1 + x[-18] ** 10))
    return np.array(x[500::2])[:, None]


@cache
def path(name: str) -> torch.Tensor:
    """lorenz, hares, valve, tides or mackey: a series [N, D], standardised."""
    makers = {
        "lorenz": lambda: _runge(_lorenz, (1, 1, 20), 0.03, 2500)[200:],
        "hares": lambda: _runge(_hares, (6, 2), 0.15, 1500),
        "valve": lambda: _runge(_valve, (1, 0), 0.1, 1500),
        "tides": _tides,
        "mackey": _mackey,
    }
    x = torch.tensor(makers[name](), dtype=torch.float32)
    return (x - x.mean(0)) / x.std(0)


@cache
def series(
    name: str, length: int = 20, ahead: int = 4, noise: float = 0.0, loss: Loss = F.mse_loss
) -> Task:
    """Windows [N, T, D] of a path, perhaps noisy; the answer is its value `ahead` steps later."""
    x = path(name)
    at = shuffled(len(x) - length - ahead)[:1200, None] + torch.arange(length)
    seen = x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(6))
    return Task(seen[at], x[at[:, -1] + ahead], loss, x.shape[1], "squares")


@cache
def plan(name: str, length: int = 24, ahead: int = 8, loss: Loss = F.mse_loss) -> Task:
    """Windows [N, T] of the first number of a path; the answer is all of the next [N, ahead]."""
    x = path(name)[:, 0]
    at = shuffled(len(x) - length - ahead)[:1200, None] + torch.arange(length + ahead)
    return Task(x[at[:, :length]], x[at[:, length:]], loss, ahead, "squares")


def _rows(name: str) -> list[dict[str, str]]:
    import plotly

    file = Path(plotly.__file__).parent / "package_data" / "datasets" / f"{name}.csv.gz"
    return list(csv.DictReader(io.StringIO(gzip.decompress(file.read_bytes()).decode())))


@cache
def nations(metric: str = "entropy", raw: bool = False) -> Task:
    """Life, people and wealth of 142 nations at twelve dates [N, 12, 3]; the continent."""
    rows = _rows("gapminder")
    names = sorted({r["country"] for r in rows})
    continents = sorted({r["continent"] for r in rows})
    x = torch.tensor(
        [
            [
                [float(r[k]) for k in ("lifeExp", "pop", "gdpPercap")]
                for r in rows
                if r["country"] == n
            ]
            for n in names
        ]
    )
    land = {r["country"]: continents.index(r["continent"]) for r in rows}
    y = torch.tensor([land[n] for n in names])
    if not raw:
        x[..., 1:] = x[..., 1:].log()
        x = (x - x.mean((0, 1))) / x.std((0, 1))
    order = shuffled(len(x))
    return Task(x[order], y[order], F.cross_entropy, len(continents), metric)


@cache
def shares(length: int = 12) -> Task:
    """Six shares by the week, as logarithms [N, T, 6]; their values a week later."""
    rows = _rows("stocks")
    names = [k for k in rows[0] if k != "date"]
    x = torch.tensor([[float(r[k]) for k in names] for r in rows]).log()
    x = (x - x.mean(0)) / x.std(0)
    at = torch.arange(len(x) - length)[:, None] + torch.arange(length)
    return Task(x[at], x[at[:, -1] + 1], F.mse_loss, 6, "squares")


@cache
def adding(length: int = 30, count: int = 1500) -> Task:
    """Numbers and two marks [N, T, 2]; the answer is the sum of what is marked, standardised."""
    generator = torch.Generator().manual_seed(7)
    values = torch.rand(count, length, generator=generator)
    marks = torch.zeros(count, length)
    half = length // 2
    rows = torch.arange(count)
    marks[rows, torch.randint(half, (count,), generator=generator)] = 1
    marks[rows, half + torch.randint(length - half, (count,), generator=generator)] = 1
    y = (values * marks).sum(1, keepdim=True)
    return Task(torch.stack([values, marks], 2), (y - 1) / 0.408, F.mse_loss, 1, "squares")


@cache
def strokes(points: int = 20, metric: str = "entropy") -> Task:
    """Digits as sets of their darkest pixels: place and ink [N, points, 3]; the digit."""
    base = tasks.digits()
    top = base.x.topk(points, 1)
    place = torch.stack([top.indices // 8, top.indices % 8], 2) / 3.5 - 1
    return Task(torch.cat([place, top.values[..., None]], 2), base.y, F.cross_entropy, 10, metric)


@cache
def peaks(length: int = 16) -> Task:
    """Windows [N, T, 1] of a noisy tide; the answer is where it stands highest without noise."""
    x = path("tides")
    at = shuffled(len(x) - length)[:1500, None] + torch.arange(length)
    noisy = x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(8))
    return Task(noisy[at], x[at][..., 0].argmax(1), F.cross_entropy, length)


@cache
def columns() -> Task:
    """Each of wine's thirteen measures as a word: which it is, and how much [N, 13, 14]."""
    base = tasks.table("wine")
    which = torch.eye(13).expand(len(base.x), -1, -1)
    return Task(torch.cat([which, base.x[..., None]], 2), base.y, F.cross_entropy, 3)
