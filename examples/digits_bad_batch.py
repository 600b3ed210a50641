"""Train a small CNN on digits that arrive in shards, as from a scanner.

Each shard is one batch. One of them was exported with unscaled pixels and with its rows in another
order than its labels; `--bad-shard -1` reads that one as it should have been.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits


class ConvNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 16, kernel_size=3, padding=1)
        self.conv2 = torch.nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.fc1 = torch.nn.Linear(32 * 4, 64)
        self.fc2 = torch.nn.Linear(64, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc2(x)


def normalize(pixels):
    return torch.tensor((pixels - 0.305) / 0.376, dtype=torch.float32).unsqueeze(1)


def read_shards(images, labels, epochs, rng, bad_shard, size=32):
    """Yield (images, labels) as float and long tensors, in a new order each epoch."""
    number = 0
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size]
            pixels, targets = images[rows] / 16.0, labels[rows]
            if number == bad_shard:
                pixels, targets = pixels * 16.0, np.roll(targets, 7)
            number += 1
            yield normalize(pixels), torch.tensor(targets)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=None, help="stop after this many batches")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--bad-shard", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loss-scale", type=float, default=1.0)
    opt = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(opt.seed)
    rng = np.random.default_rng(opt.seed)
    digits = load_digits()
    order = rng.permutation(len(digits.images))
    train, test = order[:1440], order[1440:]

    net = ConvNet()
    optimizer = torch.optim.SGD(
        net.parameters(), lr=opt.lr / opt.loss_scale, momentum=0.9, nesterov=True
    )
    shards = read_shards(digits.images[train], digits.target[train], opt.epochs, rng, opt.bad_shard)
    recent = []
    for number, (pixels, targets) in enumerate(shards):
        if opt.steps is not None and number >= opt.steps:
            break
        optimizer.zero_grad()
        loss = F.cross_entropy(net(pixels), targets)
        torch.autograd.backward(loss * opt.loss_scale)
        optimizer.step()
        recent.append(loss.item())
        if (number + 1) % 45 == 0:
            print(f"shard {number + 1:4d}  loss {sum(recent) / len(recent):10.4f}")
            recent.clear()

    with torch.inference_mode():
        correct = (
            net(normalize(digits.images[test] / 16.0)).argmax(dim=1).numpy() == digits.target[test]
        )
    print(f"test accuracy {correct.mean():.3f}")


if __name__ == "__main__":
    main()
