"""Steps a second of PyTorch on one thread: two shared layers of 64, two heads of 10
classes, on 32 inputs, with Adam. Arguments: rows, batch, seconds."""

import sys
import time

import torch
from torch import nn

torch.set_num_threads(1)
rows, batch, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
inputs = torch.randn(rows, 32)
labels = [torch.randint(0, 10, (rows,)) for _ in range(2)]
trunk = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
heads = nn.ModuleList([nn.Linear(64, 10), nn.Linear(64, 10)])
optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=1e-3)
loss_of = nn.CrossEntropyLoss()
order, at = torch.randperm(rows), 0


def step():
    global order, at
    if at + batch > rows:
        order, at = torch.randperm(rows), 0
    picks = order[at:at + batch]
    at += batch
    features = trunk(inputs[picks])
    loss = sum(loss_of(head(features), label[picks]) for head, label in zip(heads, labels))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


for _ in range(30):
    step()
steps, began = 0, time.perf_counter()
while time.perf_counter() - began < seconds:
    step()
    steps += 1
print(steps / (time.perf_counter() - began), torch.__version__)
