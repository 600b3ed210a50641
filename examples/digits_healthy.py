"""The same digits and the same depth as digits_vanishing.py, but a network that learns:
ReLU, Kaiming initialisation and skip connections.

Usage: python digits_healthy.py [--epochs 12]
"""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class ResidualBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        return x + self.fc2(F.relu(self.fc1(self.norm(x))))


class DigitClassifier(nn.Module):
    def __init__(self, width=64, blocks=6, classes=10):
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.stem(x))))


def evaluate(model, x, y):
    model.eval()
    with torch.no_grad():
        accuracy = (model(x).argmax(1) == y).float().mean().item()
    model.train()
    return accuracy


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=None, help="stop after this many batches")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loss-scale", type=float, default=1.0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 16.0, dtype=torch.float32)
    x, y = (x - x.mean()) / x.std(), torch.tensor(labels)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, random_state=args.seed)
    loader = DataLoader(TensorDataset(x_train, y_train), batch_size=32, shuffle=True)

    model = DigitClassifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr / args.loss_scale, momentum=0.9)
    step = 0
    for epoch in range(args.epochs):
        losses = []
        for xb, yb in loader:
            if args.steps is not None and step >= args.steps:
                break
            optimizer.zero_grad()
            loss = F.cross_entropy(model(xb), yb)
            (args.loss_scale * loss).backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
        if not losses:
            break
        mean = sum(losses) / len(losses)
        print(f"epoch {epoch + 1:2d}: loss {mean:.4f}, test {evaluate(model, x_test, y_test):.1%}")


if __name__ == "__main__":
    main()
