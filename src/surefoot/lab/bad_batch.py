"""One bad batch: a single sample out of scale throws a sound training away."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from surefoot.findings import Cause
from surefoot.lab import program
from surefoot.lab.course import losses
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, Line, drawn
from surefoot.lab.stack import classifier
from surefoot.lab.task import draw
from surefoot.lab.trials import tried, typical, watched

_BATCH, _STEPS, _BAD, _SAMPLE, _TIMES = 64, 64, 40, 5, 10_000.0


def _measure(seed: int) -> Result:
    seen = watched(lambda: _parts(seed, poisoned=True), _STEPS)
    proof = tried(lambda: _parts(seed, poisoned=True), steps=_STEPS)
    clean = losses(watched(lambda: _parts(seed, poisoned=False), _STEPS))
    ill = losses(seen)
    bad, good = _shares(seed, poisoned=True), _shares(seed, poisoned=False)
    found = seen.report.root
    step = math.nan if found is None else float(found.first_step)
    return Result(
        Standing.BORNE_OUT,
        f"Sample {_SAMPLE} of batch {_BAD}, {_TIMES:g} times too large and wrongly labelled, "
        f"brings {bad[_SAMPLE]:.4f} of the whole batch's gradient, where no sample of the clean "
        f"batch brings more than {max(good):.2g}. The loss goes from {ill[_BAD - 1]:.2g} to "
        f"{typical(ill):.3g} with it and to {typical(clean):.2g} without.",
        (
            Row("step that surefoot names", "where the sample was planted", _BAD, step),
            Row("sample with the largest share", "which was planted", _SAMPLE,
                bad.index(max(bad))),
            Row("its share of the squared gradients", "its input's square is 1e8 of the others': "
                "above 0.99", 0.99, bad[_SAMPLE], bound=">"),
            Row("largest share in the clean batch", "no sample rules it: below 0.5", 0.5,
                max(good), bound="<"),
            Row("loss after the clean training", "below 0.1", 0.1, typical(clean), bound="<"),
        ),
        drawn(
            [Line("with the bad batch", range(len(ill)), ill, BAD),
             Line("without", range(len(clean)), clean, GOOD)],
            "step", "loss", log_y=True,
        ),
        f"The loss falls to {ill[_BAD - 1]:.2g} up to step {_BAD - 1}; after the batch of step "
        f"{_BAD} it ends at {typical(ill):.3g}.",
        seen,
        proof.sentence,
        (proof,),
    )  # fmt: skip


def _data(seed: int, poisoned: bool) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = draw(seed)
    times = _STEPS * _BATCH // len(x)
    x, y = x.repeat(times, 1), y.repeat(times)
    if poisoned:
        place = _BAD * _BATCH + _SAMPLE
        x[place] *= _TIMES
        y[place] = (y[place] + 1) % 4
    return x, y


def _model(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return classifier(nn.ReLU, 4, 2**0.5)


def _parts(seed: int, poisoned: bool) -> tuple[Any, ...]:
    model = _model(seed)
    data = torch.utils.data.TensorDataset(*_data(seed, poisoned))
    batches = torch.utils.data.DataLoader(data, batch_size=_BATCH)
    descent = torch.optim.SGD(model.parameters(), lr=0.05)
    return model, batches, nn.functional.cross_entropy, descent


def _shares(seed: int, poisoned: bool) -> list[float]:
    """Each sample's share of the sum of squared gradients, at the weights as they were drawn."""
    model = _model(seed)
    x, y = (t[_BAD * _BATCH : (_BAD + 1) * _BATCH] for t in _data(seed, poisoned))
    energy = []
    for k in range(_BATCH):
        loss = nn.functional.cross_entropy(model(x[k : k + 1]), y[k : k + 1])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        energy.append(sum(float(g.square().sum()) for g in gradients))
    return [e / sum(energy) for e in energy]


ENTRY = Entry(
    "bad_batch",
    "A single bad batch can ruin a training that was going well.",
    "Chowdhery et al. 2022 (PaLM), section 5.1, on loss spikes; the shares by algebra",
    _measure,
    (Cause.BAD_BATCH,),
)

if __name__ == "__main__":
    program.main(ENTRY)
