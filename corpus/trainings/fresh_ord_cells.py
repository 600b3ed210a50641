"""Recurrent networks as tutorials write them: names by letters, gates by hand, packed rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from corpus.trainings.fit import Build
from corpus.trainings.tasks import Task

Act = Callable[[torch.Tensor], torch.Tensor]


class NamesRnn(nn.Module):
    """The classic: one-hot letters, i2h on letter and state, h2o, and log-probabilities."""

    def __init__(self, task: Task, width: int, act: Act, end: nn.Module) -> None:
        super().__init__()
        self.i2h, self.h2o = nn.Linear(task.size + width, width), nn.Linear(width, task.out)
        self.softmax, self.act, self.size = end, act, task.size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(len(x), self.h2o.in_features)
        for part in F.one_hot(x, self.size).float().unbind(1):
            h = self.act(self.i2h(torch.cat([part, h], 1)))
        return self.softmax(self.h2o(h))


def names_rnn(
    width: int = 64, act: Act = torch.tanh, end: Callable[[], nn.Module] = nn.Identity
) -> Build:
    """Its maker; `end`: what stands behind the last layer."""
    return lambda task: NamesRnn(task, width, act, end())


class Packed(nn.Module):
    """Padded rows, packed; the last states of all directions go to fc."""

    def __init__(
        self, task: Task, kind: type[nn.RNNBase], width: int, layers: int, both: bool, drop: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(task.size, 20, padding_idx=0)
        self.lstm = kind(
            20,
            width,
            layers,
            batch_first=True,
            bidirectional=both,
            dropout=drop if layers > 1 else 0,
        )
        self.dropout = nn.Dropout(drop)
        self.middle: nn.Module = nn.Identity()
        self.fc = nn.Linear(width * (1 + both), task.out)
        self.end: nn.Module = nn.Identity()
        self.ways = 1 + both

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lengths = (x != 0).sum(1)
        packed = pack_padded_sequence(
            self.embedding(x), lengths, batch_first=True, enforce_sorted=False
        )
        _, state = self.lstm(packed)
        h = state[0] if isinstance(state, tuple) else state
        h = torch.cat([*h[-self.ways :]], 1)
        return self.end(self.fc(self.middle(self.dropout(h))))


def packed(
    kind: type[nn.RNNBase] = nn.LSTM,
    width: int = 40,
    layers: int = 1,
    both: bool = True,
    drop: float = 0.2,
) -> Build:
    """A reader of packed rows."""
    return lambda task: Packed(task, kind, width, layers, both, drop)


class Weighed(nn.Module):
    """A GRU over words whose states are weighed by attention that skips what is padded."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(task.size, width, padding_idx=0)
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.proj, self.query = nn.Linear(2 * width, width), nn.Linear(width, 1, bias=False)
        self.classify = nn.Linear(2 * width, task.out)
        self.keep: Callable[[torch.Tensor], torch.Tensor] = lambda x: x != 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, _ = self.gru(self.emb(x))
        score = self.query(self.proj(h).tanh())[..., 0]
        weight = score.masked_fill(~self.keep(x), float("-inf")).softmax(1)
        return self.classify((weight[..., None] * h).sum(1))


def weighed(width: int = 32) -> Build:
    """Its maker."""
    return lambda task: Weighed(task, width)


class HandLstm(nn.Module):
    """An LSTM with a linear map for each gate, over numbers or letters."""

    def __init__(self, task: Task, width: int, forget: float) -> None:
        super().__init__()
        inputs = 16 if task.size else task.x.shape[-1]
        self.lookup = nn.Embedding(task.size, 16) if task.size else nn.Identity()
        self.forget_gate, self.input_gate, self.output_gate, self.candidate = (
            nn.Linear(inputs + width, width) for _ in range(4)
        )
        nn.init.constant_(self.forget_gate.bias, forget)
        self.decode = nn.Linear(width, task.out)
        self.each, self.width = task.y.dim() == 2 and not task.y.is_floating_point(), width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = torch.zeros(len(x), self.width)
        seen = []
        for part in self.lookup(x).unbind(1):
            z = torch.cat([part, h], 1)
            c = self.forget_gate(z).sigmoid() * c
            c = c + self.input_gate(z).sigmoid() * self.candidate(z).tanh()
            h = self.output_gate(z).sigmoid() * c.tanh()
            seen.append(h)
        return self.decode(torch.stack(seen, 1) if self.each else h)


def hand_lstm(width: int = 40, forget: float = 1.0) -> Build:
    """Gates by hand."""
    return lambda task: HandLstm(task, width, forget)


class HandGru(nn.Module):
    """A GRU of raw matrices, as from a book: W_z, U_z, W_r, U_r, W_h, U_h."""

    def __init__(self, task: Task, width: int, std: float) -> None:
        super().__init__()
        for gate in "zrh":
            for side, rows in (("W", task.size), ("U", width)):
                matrix = nn.Parameter(torch.randn(rows, width) * std)
                self.register_parameter(f"{side}_{gate}", matrix)
            self.register_parameter(f"b_{gate}", nn.Parameter(torch.zeros(width)))
        self.linear = nn.Linear(width, task.out)
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, seen = torch.zeros(len(x), self.width), []
        for part in x.unbind(1):
            z = (self.W_z[part] + h @ self.U_z + self.b_z).sigmoid()
            r = (self.W_r[part] + h @ self.U_r + self.b_r).sigmoid()
            new = (self.W_h[part] + (r * h) @ self.U_h + self.b_h).tanh()
            h = z * h + (1 - z) * new
            seen.append(h)
        return self.linear(torch.stack(seen, 1))


def hand_gru(width: int = 48, std: float = 0.1) -> Build:
    """From scratch."""
    return lambda task: HandGru(task, width, std)


class Plain(nn.Module):
    """nn.RNN, nn.GRU or nn.LSTM and a linear layer, for numbers or letters; last step or each."""

    def __init__(
        self, task: Task, rnn: Callable[[int], nn.RNNBase], width: int, inputs: int = 12
    ) -> None:
        super().__init__()
        self.encoder = nn.Embedding(task.size, inputs) if task.size else nn.Identity()
        self.rnn = rnn(inputs if task.size else task.x.shape[-1])
        self.drop = nn.Dropout(self.rnn.dropout)
        self.between: nn.Module = nn.Identity()
        self.decoder = nn.Linear(width, task.out)
        self.final: nn.Module = nn.Identity()
        self.each = task.y.dim() == 2 and not task.y.is_floating_point()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.between(self.drop(self.rnn(self.encoder(x))[0]))
        return self.final(self.decoder(h if self.each else h[:, -1]))


def simple(
    kind: type[nn.RNNBase] = nn.LSTM,
    width: int = 50,
    layers: int = 1,
    inputs: int = 12,
    **more: object,
) -> Build:
    """A recurrent layer of torch's; bidirectional=True doubles what the decoder hears."""
    wide = width * (2 if more.get("bidirectional") else 1)

    def rnn(size: int) -> nn.RNNBase:
        return kind(size, width, layers, batch_first=True, **more)  # type: ignore[arg-type]

    return lambda task: Plain(task, rnn, wide, inputs)


def identity_recurrence(scale: float = 1.0, std: float = 0.001) -> Callable[[nn.Module], None]:
    """IRNN (Le et al. 2015): the recurrent matrix of `rnn` starts as the identity."""

    def change(model: nn.Module) -> None:
        rnn = model.get_submodule("rnn")
        with torch.no_grad():
            for name, p in rnn.named_parameters():
                if "weight_hh" in name:
                    p.copy_(scale * torch.eye(len(p)))
                elif "bias" in name:
                    p.zero_()

    return change


class Ahead(nn.Module):
    """An LSTM reads a series; a cell writes the next values, each from its own last one."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        self.reader = nn.LSTM(1, width, batch_first=True)
        self.writer, self.value = nn.LSTMCell(1, width), nn.Linear(width, 1)
        self.ahead = task.out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, (h, c) = self.reader(x)
        h, c, last, said = h[0], c[0], x[:, -1], []
        for _ in range(self.ahead):
            h, c = self.writer(last, (h, c))
            last = self.value(h)
            said.append(last)
        return torch.cat(said, 1)


class Squeezed(nn.Module):
    """An LSTM autoencoder: the last state, repeated, is unrolled to the window again."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        self.encoder = nn.LSTM(1, width, batch_first=True)
        self.decoder, self.output = nn.LSTM(width, width, batch_first=True), nn.Linear(width, 1)
        self.code: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, (h, _) = self.encoder(x)
        code = self.code(h[-1])
        out, _ = self.decoder(code[:, None].expand(-1, x.shape[1], -1))
        return self.output(out)[..., 0]


class Translator(nn.Module):
    """A GRU reads, another one writes; `look`: with dot attention on what was read."""

    def __init__(self, task: Task, cut: int, width: int, look: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(task.size, width, padding_idx=0)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.concat = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, task.out)
        self.bridge: nn.Module = nn.Identity()
        self.cut, self.look = cut, look

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        asked, told = x[:, : self.cut], x[:, self.cut :]
        memory, state = self.encoder(self.embedding(asked))
        h, _ = self.decoder(self.embedding(told), self.bridge(state))
        if self.look:
            score = h @ memory.transpose(1, 2)
            score = score.masked_fill((asked == 0)[:, None], float("-inf"))
            h = self.concat(torch.cat([h, score.softmax(-1) @ memory], -1)).tanh()
        return self.out(h)


def translator(cut: int, width: int = 64, look: bool = False) -> Build:
    """Its maker for a task whose question ends at column `cut`."""
    return lambda task: Translator(task, cut, width, look)
