"""Every method of package balance anew, on tensors, with PyTorch's autograd,
optimizers and solvers, from the papers: an independent reference for its tests.

Reads cases as JSON on standard input and writes, for each, the tasks' weights
and the update of the shared parameters at every step.
"""

import itertools
import json
import sys

import torch

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)


def combine(weights, grads):
    return (torch.as_tensor(weights).unsqueeze(1) * grads).sum(0)


class Equal:
    def __init__(self, case):
        self.weights = torch.ones(case["tasks"])

    def step(self, losses, grads, order):
        return self.weights, combine(self.weights, grads)


class Static(Equal):
    def __init__(self, case):
        self.weights = torch.tensor(case["weights"])


class Uncertainty:
    """The loss of Kendall et al. for regressions, minimized over s by Adam."""

    def __init__(self, case):
        self.s = torch.zeros(case["tasks"], requires_grad=True)
        self.optimizer = torch.optim.Adam([self.s], lr=0.01)

    def step(self, losses, grads, order):
        losses = losses.clone().requires_grad_()
        total = (losses * torch.exp(-self.s) / 2 + self.s / 2).sum()
        self.optimizer.zero_grad()
        total.backward()
        weights = losses.grad.clone()  # how much each loss counts in the total
        self.optimizer.step()
        return weights, combine(weights, grads)


class GradNorm:
    """Algorithm 1 of Chen et al., with autograd through the norms."""

    def __init__(self, case):
        self.w = torch.ones(case["tasks"], requires_grad=True)
        self.optimizer = torch.optim.Adam([self.w], lr=0.025)
        self.alpha, self.first = 1.5, None

    def step(self, losses, grads, order):
        if self.first is None:
            self.first = losses.clone()
        weights = self.w.detach().clone()
        norms = torch.stack([torch.linalg.vector_norm(self.w[i] * g) for i, g in enumerate(grads)])
        rate = losses / self.first
        target = (norms.mean() * (rate / rate.mean()) ** self.alpha).detach()
        self.optimizer.zero_grad()
        (norms - target).abs().sum().backward()
        self.optimizer.step()
        with torch.no_grad():
            self.w.clamp_(min=1e-3)
            self.w.mul_(len(weights) / self.w.sum())
        return weights, combine(weights, grads)


class DWA:
    def __init__(self, case):
        self.epoch, self.seen = case["epoch_steps"], []

    def step(self, losses, grads, order):
        done = len(self.seen) // self.epoch
        weights = torch.ones(len(losses))
        if done >= 2:
            mean = lambda e: torch.stack(self.seen[e * self.epoch:(e + 1) * self.epoch]).mean(0)
            weights = len(losses) * torch.softmax(mean(done - 1) / mean(done - 2) / 2, 0)
        self.seen.append(losses)
        return weights, combine(weights, grads)


class Geometric:
    def __init__(self, case):
        pass

    def step(self, losses, grads, order):
        losses = losses.clone().requires_grad_()
        (len(losses) * torch.prod(losses) ** (1 / len(losses))).backward()
        return losses.grad, combine(losses.grad, grads)


class FAMO:
    """The authors' code: softmax's vector-Jacobian product by autograd, Adam with
    weight decay; the next batch in place of the same one again."""

    def __init__(self, case):
        self.xi = torch.zeros(case["tasks"], requires_grad=True)
        self.optimizer = torch.optim.Adam([self.xi], lr=0.025, weight_decay=1e-3)
        self.last = None

    def step(self, losses, grads, order):
        if self.last is not None:
            delta = self.last.log() - losses.log()
            self.xi.grad = torch.autograd.grad(torch.softmax(self.xi, 0), self.xi, grad_outputs=delta)[0]
            self.optimizer.step()
        self.last = losses
        z = torch.softmax(self.xi.detach(), 0)
        c = (z / losses).sum()
        weights = len(losses) * z / losses / c
        return weights, combine(weights, grads)


class Adaptive:
    def __init__(self, case):
        self.first, self.mean, self.n = None, torch.zeros(case["tasks"]), 0

    def step(self, losses, grads, order):
        if self.first is None:
            self.first = losses
        self.n += 1
        self.mean = torch.lerp(self.mean, losses, max(1 / 100, 1 / self.n))
        lag = self.mean / self.first
        lag = torch.maximum(lag, lag.max() / 10)
        weights = len(losses) * lag / lag.sum()
        return weights, combine(weights, grads)


class PCGrad:
    def __init__(self, case):
        pass

    def step(self, losses, grads, order):
        parts = []
        for i, g in enumerate(grads):
            g = g.clone()
            for j in order[i]:
                if j != i and torch.dot(g, grads[j]) < 0:
                    g -= torch.dot(g, grads[j]) / grads[j].norm() ** 2 * grads[j]
            parts.append(g)
        return None, torch.stack(parts).sum(0)


class CAGrad:
    """The objective of algorithm 1, by Newton's method on every face."""

    def __init__(self, case):
        pass

    def step(self, losses, grads, order):
        c, t = 0.5, len(grads)
        mean = grads.mean(0)
        reach = c * mean.norm()
        value = lambda w: torch.dot(combine_t(w, grads), mean) + reach * combine_t(w, grads).square().sum().sqrt()
        w = minimize_on_simplex(value, t)
        mix = combine_t(w, grads)
        update = (mean + reach / mix.norm() * mix) / (1 + c * c) * t
        return None, update


def combine_t(w, grads):
    return w @ grads


def minimize_on_simplex(value, tasks):
    """The best of all faces: on each, Newton's method with the weights' sum held."""
    best = None
    for size in range(1, tasks + 1):
        for face in itertools.combinations(range(tasks), size):
            w = newton(value, face, tasks)
            if w is not None and (best is None or value(w) < value(best)):
                best = w
    return best


def newton(value, face, tasks):
    basis = torch.zeros(tasks, len(face) - 1)
    for k, i in enumerate(face[1:]):
        basis[i, k], basis[face[0], k] = 1, -1
    start = torch.zeros(tasks)
    start[list(face)] = 1 / len(face)
    if len(face) == 1:
        return start
    f = lambda x: value(start + basis @ x)
    x = torch.zeros(len(face) - 1)
    for _ in range(100):
        slope = torch.autograd.functional.jacobian(f, x)
        curve = torch.autograd.functional.hessian(f, x)
        move = torch.linalg.lstsq(curve, slope).solution
        scale = 1.0
        while f(x - scale * move) > f(x) and scale > 1e-9:
            scale /= 2
        x = x - scale * move
        if move.norm() < 1e-10:
            break
    w = start + basis @ x
    return w if (w >= -1e-12).all() else None


class MGDA:
    def __init__(self, case):
        pass

    def step(self, losses, grads, order):
        w = minimize_on_simplex(lambda w: combine_t(w, grads).square().sum(), len(grads))
        return len(grads) * w, combine(len(grads) * w, grads)


class IMTL:
    """Equation 5 of Liu et al., with matrices, as the authors write it."""

    def __init__(self, case):
        pass

    def step(self, losses, grads, order):
        t = len(grads)
        units = grads / grads.norm(dim=1, keepdim=True)
        d, u = grads[0] - grads[1:], units[0] - units[1:]
        rest = grads[0] @ u.T @ torch.linalg.inv(d @ u.T)
        weights = t * torch.cat([1 - rest.sum().unsqueeze(0), rest])
        return weights, combine(weights, grads)


class Nash:
    """G w = 1 / w, by Newton's method on the equation itself, over log w."""

    def __init__(self, case):
        pass

    def step(self, losses, grads, order):
        gram = grads @ grads.T
        gram = gram / gram.norm()
        off = lambda u: (gram @ torch.exp(u)) * torch.exp(u) - 1
        u = -0.5 * torch.log(torch.diagonal(gram))
        for _ in range(500):
            move = torch.linalg.solve(torch.autograd.functional.jacobian(off, u), off(u))
            scale = 1.0 / max(1.0, float(move.abs().max()))
            while off(u - scale * move).norm() > off(u).norm() and scale > 1e-9:
                scale /= 2
            u = u - scale * move
            if move.norm() < 1e-10:
                break
        weights = torch.exp(u)
        return weights, combine(weights, grads)


METHODS = {
    "equal": Equal, "static": Static, "uncertainty": Uncertainty, "gradnorm": GradNorm, "dwa": DWA, "geometric": Geometric,
    "famo": FAMO, "adaptive": Adaptive, "pcgrad": PCGrad, "cagrad": CAGrad, "mgda": MGDA, "imtl": IMTL, "nash": Nash,
}


def main():
    answers = []
    for case in json.load(sys.stdin):
        method, steps = METHODS[case["method"]](case), []
        for seen in case["steps"]:
            weights, update = method.step(torch.tensor(seen["losses"]), torch.tensor(seen["gradients"]), seen["order"])
            steps.append({"weights": [] if weights is None else weights.tolist(), "update": update.tolist()})
        answers.append(steps)
    json.dump(answers, sys.stdout)


main()
