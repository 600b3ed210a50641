"""Digits with a plain three-layer network and a hand-written training loop.

The learning rate was copied from a recipe for another model. `--lr 0.1` works.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=15)
parser.add_argument("--steps", type=int, default=0, help="stop after this many batches")
parser.add_argument("--lr", type=float, default=8.0)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--loss-scale", type=float, default=1.0)
args = parser.parse_args()

torch.manual_seed(args.seed)
torch.set_num_threads(1)

data = load_digits()
x = torch.tensor(data.data, dtype=torch.float32) / 16
y = torch.tensor(data.target)
perm = torch.randperm(len(x))
x, y = x[perm], y[perm]
x_train, y_train, x_test, y_test = x[:1437], y[:1437], x[1437:], y[1437:]

model = nn.Sequential(
    nn.Linear(64, 128),
    nn.ReLU(),
    nn.Linear(128, 128),
    nn.ReLU(),
    nn.Linear(128, 10),
)
loss_fn = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr / args.loss_scale)

done = 0
for epoch in range(args.epochs):
    shuffled = torch.randperm(len(x_train))
    for batch in shuffled.split(args.batch_size):
        loss = loss_fn(model(x_train[batch]), y_train[batch])
        optimizer.zero_grad()
        (args.loss_scale * loss).backward()
        optimizer.step()
        done += 1
        if done == args.steps:
            break
    with torch.no_grad():
        train_loss = loss_fn(model(x_train), y_train).item()
        accuracy = (model(x_test).argmax(-1) == y_test).float().mean().item()
    print(f"{epoch:3d} | loss {train_loss:9.4f} | accuracy {accuracy:.3f}")
    if done == args.steps:
        break
