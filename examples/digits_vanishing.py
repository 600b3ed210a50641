"""Classify scikit-learn's handwritten digits with a deep sigmoid network.

Usage: python digits_vanishing.py [--epochs 8]
"""

import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class DigitClassifier(nn.Module):
    def __init__(self, width=64, depth=14, classes=10):
        super().__init__()
        self.inp = nn.Linear(64, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 2))
        self.act = nn.Sigmoid()
        self.out = nn.Linear(width, classes)

    def forward(self, x):
        x = self.act(self.inp(x))
        for layer in self.hidden:
            x = self.act(layer(x))
        return self.out(x)


def load(seed, batch_size):
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 16.0, dtype=torch.float32)
    x = (x - x.mean()) / x.std()
    y = torch.tensor(labels)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, random_state=seed)
    train = DataLoader(TensorDataset(x_train, y_train), batch_size=batch_size, shuffle=True)
    return train, (x_test, y_test)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=None, help="stop after this many batches")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loss-scale", type=float, default=1.0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    train, (x_test, y_test) = load(args.seed, batch_size=32)
    model = DigitClassifier()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr / args.loss_scale, momentum=0.9)

    step = 0
    for epoch in range(args.epochs):
        total, seen = 0.0, 0
        for x, y in train:
            if args.steps is not None and step >= args.steps:
                break
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            (loss * args.loss_scale).backward()
            optimizer.step()
            total, seen, step = total + loss.item() * len(y), seen + len(y), step + 1
        with torch.no_grad():
            accuracy = (model(x_test).argmax(1) == y_test).float().mean().item()
        print(
            f"epoch {epoch + 1:2d}  loss {total / max(seen, 1):.4f}  test accuracy {accuracy:.3f}"
        )
        if args.steps is not None and step >= args.steps:
            break


if __name__ == "__main__":
    main()
