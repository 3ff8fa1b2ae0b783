"""Small networks of kinds that train in seconds on one core, with their data."""
import csv
import gzip

import torch
from torch import nn


def digits(path):
    with gzip.open(path, "rt") as f:
        rows = torch.tensor([[float(v) for v in row] for row in csv.reader(f)])
    return rows[:, :64] / 16, rows[:, 64].long()


class Task:
    """A model with its loss and its next batch. classes is 0 for a regression."""

    def __init__(self, model, loss, batch, classes):
        self.model, self.loss, self.batch, self.classes = model, loss, batch, classes


def mlp(data, size, rng):
    x, y = data

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.LayerNorm(96), nn.Linear(96, 96), nn.GELU(), nn.Linear(96, 96))

        def forward(self, h):
            return h + self.body(h)

    model = nn.Sequential(nn.Linear(64, 96), *[Block() for _ in range(3)], nn.LayerNorm(96), nn.Linear(96, 10))

    def batch():
        at = torch.randint(len(x), (size,), generator=rng)
        return x[at] + 0.2 * torch.randn(size, 64, generator=rng), y[at]

    return Task(model, nn.CrossEntropyLoss(), batch, 10)


def autoencoder(data, size, rng):
    x, _ = data
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 12), nn.Linear(12, 128), nn.ReLU(), nn.Linear(128, 64)
    )

    def batch():
        at = torch.randint(len(x), (size,), generator=rng)
        return x[at] + 0.1 * torch.randn(size, 64, generator=rng), x[at]

    return Task(model, nn.MSELoss(), batch, 0)


class Recurrent(nn.Module):
    def __init__(self, symbols):
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(symbols, 24), nn.LSTM(24, 48, batch_first=True), nn.Linear(48, symbols)

    def forward(self, x):
        return self.head(self.body(self.embed(x))[0]).flatten(0, 1)


def lstm(_, size, rng):
    """Predicts the next symbol of a chain whose next depends on the last two."""
    symbols, length = 24, 16
    odds = torch.distributions.Dirichlet(torch.full((symbols,), 0.08)).sample((symbols, symbols))
    text = torch.randint(symbols, (256, 160), generator=rng)
    for i in range(2, text.shape[1]):
        text[:, i] = torch.multinomial(odds[text[:, i - 2], text[:, i - 1]], 1, generator=rng)[:, 0]

    def batch():
        begin = int(torch.randint(text.shape[1] - length, (1,), generator=rng))
        rows = text[torch.randint(len(text), (size,), generator=rng), begin : begin + length + 1]
        return rows[:, :-1], rows[:, 1:].flatten()

    return Task(Recurrent(symbols), nn.CrossEntropyLoss(), batch, symbols)


class Pointwise(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.up, self.body, self.head = nn.Linear(2, 32), nn.TransformerEncoder(layer, 1), nn.Linear(32, 1)

    def forward(self, x):
        return self.head(self.body(self.up(x)))[..., 0]


def attention(_, size, rng):
    """Says of each point of a set how far it is from the set's mean."""

    def batch():
        x = torch.randn(size, 12, 2, generator=rng) + torch.randn(size, 1, 2, generator=rng)
        return x, (x - x.mean(1, keepdim=True)).norm(dim=-1) + 0.1 * torch.randn(size, 12, generator=rng)

    return Task(Pointwise(), nn.MSELoss(), batch, 0)


MODELS = {"mlp": (mlp, 64, 1e-3), "ae": (autoencoder, 64, 2e-3), "lstm": (lstm, 16, 3e-3), "set": (attention, 16, 1e-3)}
