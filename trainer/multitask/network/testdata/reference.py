"""The networks of package network with PyTorch's modules: outputs and gradients
of one pass in training, then outputs of one after it, for its tests."""

import json
import sys

import torch
from torch import nn

torch.set_num_threads(1)


def encoder(case, parameters, name):
    blocks, width = [], case["inputs"]
    for i, hidden in enumerate(case["hidden"]):
        dense = linear(parameters, f"{name}.{i}")
        layers = [dense]
        if case["batch_norm"]:
            norm = nn.BatchNorm1d(hidden)
            norm.weight, norm.bias = parameters[f"{name}.{i}.norm.weight"], parameters[f"{name}.{i}.norm.bias"]
            layers.append(norm)
        layers.append(nn.ReLU())
        blocks.append((nn.Sequential(*layers), case["trunk"] == "residual" and width == hidden))
        width = hidden
    return blocks


def linear(parameters, name):
    weight, bias = parameters[name + ".weight"], parameters[name + ".bias"]
    return Linear(weight, bias)


class Linear(nn.Module):
    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x):
        return x @ self.weight + self.bias.reshape(-1)


def through(blocks, x):
    for block, skip in blocks:
        x = block(x) + x if skip else block(x)
    return x


def main():
    answers = []
    for case in json.load(sys.stdin):
        parameters = {}
        for tensor in case["tensors"]:
            value = torch.tensor(tensor["values"])
            if tensor["rows"] > 1 or tensor["name"].startswith("gate") and tensor["name"].endswith("weight"):
                value = value.reshape(tensor["rows"], tensor["cols"])
            parameters[tensor["name"]] = nn.Parameter(value)
        names = ["encoder"] if case["trunk"] != "mmoe" else [f"expert.{e}" for e in range(case["experts"])]
        trunks = [encoder(case, parameters, name) for name in names]

        def run(x):
            outs = torch.stack([through(t, x) for t in trunks])
            results = []
            for head in case["heads"]:
                features = outs[0]
                if case["trunk"] == "mmoe":
                    shares = torch.softmax(linear(parameters, "gate." + head["name"])(x), 1)
                    features = torch.einsum("re,erw->rw", shares, outs)
                for i in range(head["hidden"]):
                    features = torch.relu(linear(parameters, f"{head['name']}.{i}")(features))
                results.append(linear(parameters, head["name"])(features))
            return results

        x = torch.tensor(case["x"]).reshape(-1, case["inputs"])
        outputs = run(x)
        total = sum((out * torch.tensor(delta).reshape(out.shape)).sum() for out, delta in zip(outputs, case["deltas"]))
        total.backward()
        for trunk in trunks:
            for block, _ in trunk:
                block.eval()
        answers.append({
            "outputs": [out.flatten().tolist() for out in outputs],
            "gradients": [parameters[t["name"]].grad.flatten().tolist() for t in case["tensors"]],
            "evaluated": [out.flatten().tolist() for out in run(x)],
        })
    json.dump(answers, sys.stdout)


main()
