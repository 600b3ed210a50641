"""Digits with convolutions and statistics pooling (mean and standard deviation of each channel).

The last batch of an epoch is filled up with blank images, so that all batches have one shape; the
labels of the filling are -100, which the loss ignores.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn


class StatisticsPooling(nn.Module):
    """[N, C, H, W] -> [N, 2 C]."""

    def forward(self, x):
        mean = x.mean(dim=(2, 3))
        variance = (x - mean[:, :, None, None]).square().mean(dim=(2, 3))
        return torch.cat([mean, variance.sqrt()], dim=1)


class Net(nn.Module):
    def __init__(self, channels=32):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, 3),
            nn.Tanh(),
            nn.Conv2d(channels, channels, 3),
            nn.Tanh(),
        )
        self.pool = StatisticsPooling()
        self.classifier = nn.Sequential(
            nn.Linear(2 * channels, 64), nn.ReLU(inplace=True), nn.Linear(64, 10)
        )

    def forward(self, x):
        return self.classifier(self.pool(self.features(x)))


class Batches:
    """Shuffled batches of equal size, the last one filled up."""

    def __init__(self, images, labels, size, seed):
        self.images, self.labels, self.size = images, labels, size
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self):
        order = torch.randperm(len(self.images), generator=self.generator)
        for rows in order.split(self.size):
            images = torch.zeros(self.size, 1, 8, 8)
            labels = torch.full((self.size,), -100)
            images[: len(rows)] = self.images[rows]
            labels[: len(rows)] = self.labels[rows]
            yield images, labels


def main(args):
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)
    images = (images - images.mean()) / images.std()
    labels = torch.tensor(digits.target)
    train = Batches(images[:1500], labels[:1500], args.batch_size, args.seed)

    net = Net()
    loss_fn = nn.CrossEntropyLoss(ignore_index=-100)
    optimizer = torch.optim.SGD(net.parameters(), args.lr / args.loss_scale, momentum=0.9)
    step = 0
    for epoch in range(args.epochs):
        for x, y in train:
            optimizer.zero_grad()
            loss = loss_fn(net(x), y)
            (loss * args.loss_scale).backward()
            optimizer.step()
            step += 1
            if step % 20 == 0:
                print(f"step {step:4d} loss {loss.item():.4f}")
            if step == args.steps:
                break
        net.eval()
        with torch.no_grad():
            hits = (net(images[1500:]).argmax(1) == labels[1500:]).float().mean()
        net.train()
        print(f"epoch {epoch}: test accuracy {hits:.3f}")
        if step == args.steps:
            break


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=None, help="stop after this many batches")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loss-scale", type=float, default=1.0)
    main(parser.parse_args())
