"""Updates of PyTorch's optimizers on given gradients, for the tests of package
optimize: cases as JSON on standard input, parameters after each step as JSON."""

import json
import sys

import torch

torch.set_num_threads(1)

answers = []
for case in json.load(sys.stdin):
    p = torch.tensor(case["parameters"], dtype=torch.float32, requires_grad=True)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[case["kind"]]
    optimizer, steps = kind([p], **case["options"]), []
    for gradient in case["gradients"]:
        p.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
        steps.append(p.tolist())
    answers.append(steps)
json.dump(answers, sys.stdout)
