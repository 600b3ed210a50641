"""Prose, programs, sums, series and ratings from installed packages or from a formula, as tasks."""

from __future__ import annotations

import ast
import csv
import difflib
import html.parser
import inspect
import math
import pydoc_data.topics
import re
import statistics
import unicodedata
from collections import Counter
from functools import cache

import torch
import torch.nn.functional as F
from sklearn import datasets

from corpus.trainings.seq_tasks import _rows, shuffled, spelled
from corpus.trainings.tasks import Task, token_loss

TABLES = ("iris", "wine", "diabetes", "breast_cancer", "digits", "linnerud")
IGNORED = -100


@cache
def prose() -> str:
    """What scikit-learn says of its own data."""
    told = [getattr(datasets, f"load_{name}")().DESCR for name in TABLES]
    return re.sub(r"[^\x20-\x7e]+", " ", " ".join(told))


def _windows(ids: torch.Tensor, length: int, count: int) -> torch.Tensor:
    at = shuffled(len(ids) - length, 11)[:count, None]
    return ids[at + torch.arange(length)]


@cache
def letters(length: int = 20, count: int = 1800) -> Task:
    """Windows of that prose in small letters; the answer is the next character."""
    text = prose().lower()
    index = {c: i for i, c in enumerate(sorted(set(text)))}
    x = _windows(torch.tensor([index[c] for c in text]), length + 1, count)
    return Task(x[:, :-1], x[:, 1:], token_loss, len(index), size=len(index))


@cache
def following(length: int = 6) -> Task:
    """The same, but only what comes after the window is asked for."""
    base = letters(length, 4000)
    return Task(base.x, base.y[:, -1], F.cross_entropy, base.out, size=base.size)


@cache
def capitals(length: int = 24, count: int = 1500) -> Task:
    """The prose in small letters; which of them were capitals (few)."""
    text = prose()
    index = {c: i for i, c in enumerate(sorted(set(text.lower())))}
    ids = torch.tensor([index[c] for c in text.lower()])
    big = torch.tensor([int(c.isupper()) for c in text])
    at = shuffled(len(ids) - length, 12)[:count, None] + torch.arange(length)
    return Task(ids[at], big[at], token_loss, 2, size=len(index))


@cache
def blanks(length: int = 18, share: float = 0.2) -> Task:
    """Prose of which a part is covered (token 0); only what is covered is asked for."""
    base = letters(length)
    generator = torch.Generator().manual_seed(13)
    hidden = torch.rand(base.x.shape, generator=generator) < share
    hidden[:, length // 2] = True
    x, y = (base.x + 1).masked_fill(hidden, 0), base.x.masked_fill(~hidden, IGNORED)
    return Task(x, y, token_loss, base.out, size=base.out + 1)


@cache
def scripts(length: int = 20, count: int = 2000) -> Task:
    """Names of letters without their first word; the answer is that word, of six."""
    kinds = ("LATIN", "GREEK", "CYRILLIC", "ARABIC", "ETHIOPIC", "CANADIAN")
    found = []
    for c in map(chr, range(0x80, 0x3000)):
        first, _, rest = unicodedata.name(c, "").partition(" ")
        if first in kinds and rest:
            found.append((rest.replace("SYLLABICS ", ""), kinds.index(first)))
    order = shuffled(len(found), 14)[:count]
    x, size = spelled([found[i][0] for i in order], length)
    return Task(x, torch.tensor([found[i][1] for i in order]), F.cross_entropy, 6, size=size)


MODULES = (statistics, difflib, html.parser, csv)


@cache
def lines(length: int = 12, vocabulary: int = 400, noise: float = 0.0) -> Task:
    """Lines of four modules as words, padded with zeros; which module a line comes from."""
    split = [
        (re.findall(r"\w+|[^\w\s]", line)[:length], label)
        for label, module in enumerate(MODULES)
        for line in inspect.getsource(module).split("\n")
        if len(line.split()) > 2
    ]
    split = [(w, label) for w, label in split if len(w) > 2]
    common = Counter(w for words, _ in split for w in words).most_common(vocabulary)
    index = {w: i + 2 for i, (w, _) in enumerate(common)}
    x = torch.zeros(len(split), length, dtype=torch.long)
    for row, (words, _) in zip(x, split, strict=True):
        row[: len(words)] = torch.tensor([index.get(w, 1) for w in words])
    order = shuffled(len(split), 15)
    y = torch.tensor([label for _, label in split])[order]
    if noise:
        generator = torch.Generator().manual_seed(16)
        false = torch.rand(y.shape, generator=generator) < noise
        y = torch.where(false, torch.randint(4, y.shape, generator=generator), y)
    return Task(x[order], y, F.cross_entropy, 4, size=vocabulary + 2)


@cache
def _corpus(vocabulary: int) -> torch.Tensor:
    split = re.findall(r"[a-z]+|[.,():]", prose().lower() + inspect.getsource(statistics).lower())
    common = {w: i + 1 for i, (w, _) in enumerate(Counter(split).most_common(vocabulary - 1))}
    return torch.tensor([common.get(w, 0) for w in split])


def stream(vocabulary: int = 200) -> torch.Tensor:
    """Words in their order [N]; zero stands for the rare ones."""
    return _corpus(vocabulary)


@cache
def contexts(before: int = 3, after: int = 0, vocabulary: int = 200) -> Task:
    """Some words before (and after) a place; the word that stands there."""
    ids = stream(vocabulary)
    span = _windows(ids, before + 1 + after, len(ids))
    x = torch.cat([span[:, :before], span[:, before + 1 :]], 1)
    return Task(x, span[:, before], F.cross_entropy, vocabulary, size=vocabulary)


@cache
def brackets(length: int = 16, count: int = 1500) -> Task:
    """Rows of brackets that close again; how deep each one stands (at most six)."""
    generator = torch.Generator().manual_seed(17)
    step = torch.randint(2, (count, length), generator=generator) * 2 - 1
    depth, rows = torch.zeros(count, dtype=torch.long), []
    for part in step.unbind(1):
        part = torch.where(depth == 0, 1, torch.where(depth == 6, -1, part))
        depth = depth + part
        rows.append(depth)
    y = torch.stack(rows, 1)
    before = torch.cat([torch.zeros(count, 1, dtype=torch.long), y[:, :-1]], 1)
    return Task((y > before).long(), y, token_loss, 7, size=2)


@cache
def recall(length: int = 20, signs: int = 6, count: int = 2000) -> Task:
    """The sign that came first is asked for after the last; all others are noise."""
    x = torch.randint(signs, (count, length), generator=torch.Generator().manual_seed(18))
    x = torch.cat([x[:, :1], x[:, 1:] + signs], 1)
    return Task(x, x[:, 0], F.cross_entropy, signs, size=2 * signs)


def _pairs(asked: list[str], told: list[str]) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    """Questions and answers as ids with a start sign (1); zero pads both."""
    signs = {c: i + 2 for i, c in enumerate(sorted(set("".join(asked + told))))}
    wide, long = max(map(len, asked)), max(map(len, told))
    x = torch.tensor([[signs[c] for c in a] + [0] * (wide - len(a)) for a in asked])
    y = torch.tensor([[signs[c] for c in t] + [0] * (long - len(t)) for t in told])
    start = torch.ones(len(y), 1, dtype=torch.long)
    return torch.cat([x, start, y[:, :-1]], 1), y, len(signs) + 2, wide


@cache
def sums(top: int = 100, count: int = 2500) -> tuple[Task, int]:
    """ "27+8" and, from the given column on, what was written so far; the digits of the sum."""
    generator = torch.Generator().manual_seed(19)
    both = torch.randint(top, (count, 2), generator=generator).tolist()
    asked = [f"{a}+{b}" for a, b in both]
    told = [str(a + b)[::-1].ljust(3, "_") for a, b in both]
    x, y, size, cut = _pairs(asked, told)
    return Task(x, y, token_loss, size, size=size), cut


@cache
def reversed_words(length: int = 8) -> tuple[Task, int]:
    """Words of the prose, and the same words backwards."""
    found = sorted({w for w in re.findall(r"[a-z]+", prose().lower()) if 2 < len(w) <= length})
    found = [found[i] for i in shuffled(len(found), 20)] * 2
    x, y, size, cut = _pairs(found, [w[::-1] for w in found])
    return Task(x, y, token_loss, size, size=size), cut


def _seasons(n: torch.Tensor) -> torch.Tensor:
    wave = 1 + 0.3 * torch.sin(2 * math.pi * n / 12) + 0.1 * torch.cos(2 * math.pi * n / 6)
    return (100 + 0.5 * n) * wave


def _logistic(n: torch.Tensor) -> torch.Tensor:
    x = [0.3]
    for _ in range(len(n) - 1):
        x.append(3.7 * x[-1] * (1 - x[-1]))
    return torch.tensor(x)


def _pendulum(n: torch.Tensor) -> torch.Tensor:
    angle, speed, seen = 2.0, 0.0, []
    for i in range(len(n)):
        speed += 0.08 * (-4 * math.sin(angle) - 0.1 * speed + 1.4 * math.cos(0.11 * i))
        angle += 0.08 * speed
        seen.append(math.sin(angle))
    return torch.tensor(seen)


def _heart(n: torch.Tensor) -> torch.Tensor:
    phase = n / 23 + 0.05 * torch.sin(n / 60)
    beat = phase - phase.floor()
    waves = ((0.2, 0.05, 0.15), (0.4, 0.02, 1.0), (0.7, 0.07, 0.35))
    return sum(a * torch.exp(-((beat - at) ** 2) / (2 * w**2)) for at, w, a in waves)


def _regression(n: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(len(n), generator=torch.Generator().manual_seed(21))
    x = [0.0, 0.0]
    for e in noise.tolist():
        x.append(1.6 * x[-1] - 0.8 * x[-2] + 0.6 * e)
    return torch.tensor(x[2:])


SERIES = {
    "seasons": _seasons,
    "logistic": _logistic,
    "pendulum": _pendulum,
    "heart": _heart,
    "regression": _regression,
}


@cache
def series(name: str, length: int = 24, ahead: int = 1, scaled: str = "standard") -> Task:
    """Windows [N, T, 1] of a series; the `ahead` values behind [N, ahead]; raw: not scaled."""
    x = SERIES[name](torch.arange(1400.0)).float()
    if scaled == "standard":
        x = (x - x.mean()) / x.std()
    elif scaled == "minmax":
        x = (x - x.min()) / (x.max() - x.min())
    at = shuffled(len(x) - length - ahead, 22)[:, None] + torch.arange(length + ahead)
    return Task(x[at[:, :length], None], x[at[:, length:]], F.mse_loss, ahead, "squares")


@cache
def copies(name: str, length: int = 16) -> Task:
    """Windows of a series, to be given back [N, T]."""
    base = series(name, length)
    return Task(base.x, base.x[..., 0], F.mse_loss, length, "squares")


@cache
def life(raw: bool = False) -> Task:
    """Nation and date [N, 2] as numbers of rows; how long people live there (raw: in years)."""
    rows = _rows("gapminder")
    names, years = (sorted({r[k] for r in rows}) for k in ("country", "year"))
    x = torch.tensor([[names.index(r["country"]), years.index(r["year"])] for r in rows])
    y = torch.tensor([[float(r["lifeExp"])] for r in rows])
    order = shuffled(len(x), 23)
    y = y if raw else (y - y.mean()) / y.std()
    return Task(x[order], y[order], F.mse_loss, 1, "squares", size=len(names))


@cache
def topics(words: int = 60) -> torch.Tensor:
    """How often (as logarithms) each help topic uses each of the most frequent words [D, W]."""
    told = [re.findall(r"[a-z]{3,}", t.lower()) for t in pydoc_data.topics.topics.values()]
    told = [t for t in told if len(t) > 100]
    common = [w for w, _ in Counter(w for t in told for w in t).most_common(words)]
    return torch.tensor([[float(Counter(t)[w]) for w in common] for t in told]).log1p()


@cache
def counted(words: int = 60) -> Task:
    """Topic and word [N, 2]; how often the one uses the other, standardised."""
    x = topics(words)
    at = torch.cartesian_prod(torch.arange(len(x)), torch.arange(words))
    order = shuffled(len(at), 24)
    y = x.flatten()[order, None]
    return Task(at[order], (y - y.mean()) / y.std(), F.mse_loss, 1, "squares", size=len(x))


@cache
def tokens_of_kinds(length: int = 10, count: int = 1500) -> Task:
    """Kinds of nodes of a program in the order of its text; the kind that comes next."""
    names = [type(n).__name__ for n in ast.walk(ast.parse(inspect.getsource(difflib)))]
    index = {k: i for i, (k, _) in enumerate(Counter(names).most_common())}
    x = _windows(torch.tensor([index[k] for k in names]), length + 1, count)
    return Task(x[:, :-1], x[:, 1:], token_loss, len(index), size=len(index))
