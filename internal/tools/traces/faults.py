"""What goes wrong, or only seems to, in the runs that make.py records.

A fault is a class with hooks that the training loop calls; each does nothing
unless the fault says otherwise. Those of RUNS that are labelled healthy look
like trouble and are none.
"""
import math
import time

import torch


class Fault:
    """No fault. onset is the first step that it touches; end the last, None for ever."""

    kind = "healthy"

    def __init__(self, onset=None, end=None, **how):
        self.onset, self.end, self.how = onset, end, how

    def on(self, step):
        return self.onset is not None and step >= self.onset and (self.end is None or step <= self.end)

    def data_wait(self, step, rng):
        """Seconds that the loader keeps the step waiting."""
        return 0.0003

    def batch(self, step, x, y, classes):
        return x, y

    def learning_rate(self, step, lr):
        return lr

    def loss(self, step, loss):
        return loss

    def gradients(self, step, model):
        pass

    def parameters(self, step, model):
        pass

    def work(self, step, usual):
        """Seconds that the step takes on top; usual is the median so far."""
        return 0.0

    def pause(self, step):
        """Seconds during which no step finishes after this one."""
        return 0.0


class HigherRate(Fault):
    kind = "divergence"

    def learning_rate(self, step, lr):
        return lr * self.how["times"] if self.on(step) else lr


class RisingRate(Fault):
    kind = "divergence"

    def learning_rate(self, step, lr):
        return lr * self.how["growth"] ** (step - self.onset) if self.on(step) else lr


class Ascent(Fault):
    kind = "divergence"

    def gradients(self, step, model):
        if self.on(step):
            for p in model.parameters():
                p.grad.neg_()


class WrongLabels(Fault):
    """With an end, a spike; without one, a divergence."""

    @property
    def kind(self):
        return "divergence" if self.end is None else "spike"

    def batch(self, step, x, y, classes):
        if not self.on(step):
            return x, y
        if classes:
            return x, (y + 1 + step % (classes - 1)) % classes
        return x, y.roll(1, 0) * 3


class Garbage(Fault):
    kind = "spike"

    def batch(self, step, x, y, classes):
        if not self.on(step):
            return x, y
        if x.is_floating_point():
            return x * self.how.get("times", 20.0), y
        return torch.randint_like(x, int(x.max()) + 1), torch.randint_like(y, classes)


class Nudge(Fault):
    """Noise in the parameters, which training undoes."""

    kind = "spike"

    def parameters(self, step, model):
        if step == self.onset:
            for p in model.parameters():
                p.data.add_(torch.randn_like(p) * p.std(unbiased=False).clamp(min=0.01) * self.how["size"])


class NotANumber(Fault):
    kind = "nan"

    def loss(self, step, loss):
        if step != self.onset:
            return loss
        return loss * float("inf") if self.how.get("inf") else loss + torch.log(loss - loss - 1)


class ScaledGradients(Fault):
    """times > 1: an explosion behind clipping; < 1: they vanish."""

    @property
    def kind(self):
        return "explosion" if self.how["times"] > 1 else "vanishing"

    def gradients(self, step, model):
        if not self.on(step):
            return
        times = self.how["times"]
        if self.how.get("over"):  # slowly
            times = times ** min(1.0, (step - self.onset + 1) / self.how["over"])
        for p in model.parameters():
            p.grad.mul_(times)


class Frozen(Fault):
    kind = "plateau"

    def learning_rate(self, step, lr):
        return lr * 1e-7 if self.on(step) else lr


class RandomLabels(Fault):
    kind = "plateau"

    def batch(self, step, x, y, classes):
        return x, torch.randint_like(y, classes)


class Leak(Fault):
    kind = "leak"

    def __init__(self, *args, **how):
        super().__init__(*args, **how)
        self.kept = []

    def work(self, step, usual):
        if self.on(step) and step % self.how.get("every", 1) == 0:
            self.kept.append(bytearray(b"x" * (self.how["kib"] << 10)))
        return 0.0


class Slow(Fault):
    kind = "straggler"

    def work(self, step, usual):
        if not self.on(step) or (self.how.get("every") and step % self.how["every"] >= self.how["of"]):
            return 0.0
        share = min(1.0, (step - self.onset + 1) / self.how.get("over", 1))
        return usual * self.how["share"] * share


class Starved(Fault):
    kind = "starvation"

    def data_wait(self, step, rng):
        if not self.on(step) or (self.how.get("every") and step % self.how["every"] >= self.how["of"]):
            return 0.0003
        return self.how["seconds"] * (0.7 + 0.6 * rng.random()) * min(1.0, (step - self.onset + 1) / self.how.get("over", 1))


class Hang(Fault):
    kind = "hang"

    def pause(self, step):
        return self.how["seconds"] if step == self.onset - 1 else 0.0


# What looks like trouble and is none.


class Evaluations(Fault):
    def pause(self, step):
        return self.how["seconds"] if step and step % self.how["every"] == 0 else 0.0


class Cosine(Fault):
    def learning_rate(self, step, lr):
        at = step % self.how["period"]
        return lr * (0.02 + 0.49 * (1 + math.cos(math.pi * at / self.how["period"])))


class Warmup(Fault):
    def learning_rate(self, step, lr):
        return lr * min(1.0, (step + 1) / self.how["steps"])


class Cache(Fault):
    """Memory that grows and then no more."""

    def __init__(self, *args, **how):
        super().__init__(*args, **how)
        self.kept = []

    def work(self, step, usual):
        if len(self.kept) < self.how["items"]:
            self.kept.append(bytearray(b"x" * (self.how["kib"] << 10)))
        return 0.0


class Sawtooth(Cache):
    def work(self, step, usual):
        if len(self.kept) >= self.how["items"]:
            self.kept.clear()
        return super().work(step, usual)


class HeavyTails(Fault):
    """Now and then a batch of hard examples."""

    def batch(self, step, x, y, classes):
        if classes and step % self.how["every"] == 3:
            y = y.clone()
            y[: len(y) // 8] = (y[: len(y) // 8] + 1) % classes
        return x, y


class SlowFirst(Fault):
    """Compilation in the first steps."""

    def work(self, step, usual):
        return 1.5 if step in (0, 3) else 0.0


def busy(seconds):
    """Takes the processor for so many seconds of its time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
