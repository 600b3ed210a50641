"""Digits with a 24-layer leaky ReLU network, written as one nn.Sequential.

The tenth hidden layer is initialised with a gain thirty times too large; `--gain 1` is right.
"""

import argparse
import math

import torch
from sklearn.datasets import load_digits
from torch import nn

WIDTH, LAYERS, SLOPE = 64, 24, 0.3


def he_init(linear, gain=1.0):
    std = gain * math.sqrt(2.0 / (1 + SLOPE**2) / linear.in_features)
    nn.init.normal_(linear.weight, 0.0, std)
    nn.init.zeros_(linear.bias)
    return linear


def build(gain_of_tenth):
    body = []
    for i in range(LAYERS):
        gain = gain_of_tenth if i == 9 else 1.0
        body += [he_init(nn.Linear(WIDTH, WIDTH), gain), nn.LeakyReLU(SLOPE)]
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(*body))
    model.add_module("head", nn.Linear(WIDTH, 10))
    return model


def batches(x, y, size, generator):
    order = torch.randperm(len(x), generator=generator)
    for i in range(0, len(x) - size + 1, size):
        index = order[i : i + size]
        yield x[index], y[index]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--gain", type=float, default=30.0, help="of the tenth hidden layer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loss-scale", type=float, default=1.0)
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    digits = load_digits()
    x = torch.from_numpy(digits.data).float().div(16).sub(0.305).div(0.376)
    y = torch.from_numpy(digits.target)
    split = torch.randperm(len(x), generator=generator)
    train, test = split[:1440], split[1440:]

    model = build(args.gain)
    sgd = torch.optim.SGD(model.parameters(), lr=args.lr / args.loss_scale)
    step = 0
    for epoch in range(args.epochs):
        running = 0.0
        for n, (xb, yb) in enumerate(batches(x[train], y[train], 48, generator), start=1):
            loss = nn.functional.cross_entropy(model(xb), yb)
            sgd.zero_grad(set_to_none=True)
            loss.mul(args.loss_scale).backward()
            sgd.step()
            running += (loss.item() - running) / n
            step += 1
            if step >= args.steps:
                break
        correct = (model(x[test]).argmax(dim=1) == y[test]).sum().item()
        print(f"[{epoch}] train loss {running:.3f} | test {correct}/{len(test)} correct")
        if step >= args.steps:
            break


if __name__ == "__main__":
    main()
