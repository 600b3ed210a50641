"""Read each handwritten digit pixel by pixel with a vanilla recurrent network.

64 time steps, one pixel each, in the order of a scan line; the class is predicted from the last
state. Gradients are not clipped.
"""

import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_digits


class PixelRNN(nn.Module):
    def __init__(self, hidden, spread):
        super().__init__()
        self.rnn = nn.RNN(input_size=1, hidden_size=hidden, nonlinearity="tanh", batch_first=True)
        self.readout = nn.Linear(hidden, 10)
        nn.init.normal_(self.rnn.weight_hh_l0, std=spread / hidden**0.5)

    def forward(self, pixels):
        _, last = self.rnn(pixels)
        return self.readout(last[0])


def iterate(x, y, batch_size):
    for rows in torch.randperm(len(x)).split(batch_size):
        yield x[rows], y[rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=None, help="stop after this many batches")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--spread", type=float, default=2.5, help="of the recurrent weights")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loss-scale", type=float, default=1.0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32).unsqueeze(-1) / 8 - 1  # [N, 64, 1]
    y = torch.tensor(digits.target)
    train, test = slice(0, 1408), slice(1408, None)

    model = PixelRNN(args.hidden, args.spread)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr / args.loss_scale)
    step = 0
    for epoch in range(1, args.epochs + 1):
        history = []
        for pixels, labels in iterate(x[train], y[train], 32):
            logits = model(pixels)
            loss = nn.functional.cross_entropy(logits, labels)
            model.zero_grad()
            (loss * args.loss_scale).backward()
            optimizer.step()
            history.append(loss.item())
            step += 1
            if step == args.steps:
                break
        with torch.no_grad():
            accuracy = (model(x[test]).argmax(1) == y[test]).double().mean()
        print(
            f"epoch {epoch}: loss {sum(history) / len(history):.3f} "
            f"(worst {max(history):.3f}), accuracy {accuracy:.1%}"
        )
        if step == args.steps:
            break


if __name__ == "__main__":
    main()
