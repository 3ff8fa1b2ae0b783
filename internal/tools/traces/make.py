"""Records real runs of small networks with known faults, as labelled traces.

usage: make.py OUT_DIR DIGITS.csv.gz [--only PART] [--seed N]

Writes OUT_DIR/NAME.jsonl.gz in the format of labelled traces: a header with
label and onset, then a row a step. The networks are of other kinds than those
that the rules were developed on, so that what the rules make of them says
something about runs never seen. A step's time is that of its thread's processor,
and of what it waits by intent, so that a busy machine does not look like a fault.
Needs PyTorch; takes some minutes on one core.
"""
import argparse
import gzip
import json
import multiprocessing
import os
import random
import statistics
import time
import zlib

import torch

import faults as f
from models import MODELS, digits

# name: steps and the fault; every network meets every one that fits it.
HEALTHY = {
    "plain": (900, lambda: f.Fault()),
    "eval": (600, lambda: f.Evaluations(every=80, seconds=0.6)),
    "restarts": (900, lambda: f.Cosine(period=150)),
    "warmup": (700, lambda: f.Warmup(steps=200)),
    "cache": (700, lambda: f.Cache(items=120, kib=400)),
    "saw": (700, lambda: f.Sawtooth(items=60, kib=500)),
    "hard": (700, lambda: f.HeavyTails(every=29)),
    "compile": (500, lambda: f.SlowFirst()),
    "tiny": (900, lambda: f.Fault()),
}
FAULTS = {
    "div-rate": (600, lambda: f.HigherRate(onset=260, times=300)),
    "div-rise": (600, lambda: f.RisingRate(onset=240, growth=1.06)),
    "div-ascent": (600, lambda: f.Ascent(onset=300)),
    "div-labels": (600, lambda: f.WrongLabels(onset=310)),
    "spk-labels": (600, lambda: f.WrongLabels(onset=350, end=352)),
    "spk-garbage": (600, lambda: f.Garbage(onset=280, end=280)),
    "spk-nudge": (600, lambda: f.Nudge(onset=400, end=404, size=0.6)),
    "nan-log": (400, lambda: f.NotANumber(onset=210)),
    "nan-inf": (400, lambda: f.NotANumber(onset=180, inf=True)),
    "exp-jump": (600, lambda: f.ScaledGradients(onset=300, times=40)),
    "exp-slow": (600, lambda: f.ScaledGradients(onset=300, times=200, over=60)),
    "van-jump": (600, lambda: f.ScaledGradients(onset=260, times=1e-4)),
    "van-slow": (600, lambda: f.ScaledGradients(onset=260, times=1e-5, over=60)),
    "pla-frozen": (900, lambda: f.Frozen(onset=60)),
    "pla-random": (800, lambda: f.RandomLabels(onset=0)),
    "leak-each": (700, lambda: f.Leak(onset=200, kib=64)),
    "leak-ten": (700, lambda: f.Leak(onset=200, kib=500, every=10)),
    "str-half": (500, lambda: f.Slow(onset=240, share=0.6)),
    "str-ramp": (500, lambda: f.Slow(onset=240, share=1.0, over=60)),
    "starv-const": (500, lambda: f.Starved(onset=250, seconds=0.02)),
    "starv-burst": (500, lambda: f.Starved(onset=250, seconds=0.06, every=5, of=2)),
    "hang": (500, lambda: f.Hang(onset=300, seconds=5.0)),
}


DEVICE_SECONDS = 0.012


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def norm_of(model):
    return float(torch.sqrt(sum((p.grad.double() ** 2).sum() for p in model.parameters() if p.grad is not None)))


def number(value):
    """JSON has no words for what is not a number."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return float("%.6g" % value)


class Clock:
    """Time of the thread's processor and of what was waited by intent."""

    def __init__(self):
        self.waited, self.start = 0.0, time.thread_time()

    def now(self):
        return time.thread_time() - self.start + self.waited


def record(task, fault, steps, lr, seed, clip=None):
    """Trains for so many steps and gives a row for each."""
    rng, clock, rows, took = random.Random(seed), Clock(), [], []
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=lr)
    for step in range(steps):
        begin = clock.now()
        clock.waited += fault.data_wait(step, rng)
        x, y = fault.batch(step, *task.batch(), task.classes)
        loaded = clock.now()
        for group in optimizer.param_groups:
            group["lr"] = fault.learning_rate(step, lr)
        optimizer.zero_grad(set_to_none=False)
        loss = fault.loss(step, task.loss(task.model(x), y))
        loss.backward()
        fault.gradients(step, task.model)
        norm = norm_of(task.model)
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), clip or 1e9)
        optimizer.step()
        fault.parameters(step, task.model)
        clock.waited += DEVICE_SECONDS * rng.lognormvariate(0, 0.06)
        clock.waited += fault.work(step, statistics.median(took[-64:]) if took else 0.0)
        end = clock.now()
        took.append(end - begin)
        rows.append({
            "step": step, "t": round(end, 5), "loss": number(float(loss.detach())), "grad_norm": number(norm),
            "lr": optimizer.param_groups[0]["lr"], "step_time_s": round(end - begin, 6),
            "data_time_s": round(loaded - begin, 6), "rss_bytes": resident(),
        })
        still = fault.pause(step)
        for beat in range(1, int(still / 0.25) + 1):
            rows.append({"heartbeat": True, "step": step, "t": round(end + 0.25 * beat, 5)})
        clock.waited += still
    return rows


def blips(rows, onset):
    """Rows at which a healthy loss leaps by itself, which are neither to be
    found nor to be passed over: over 7 robust sigmas and 20 % above the median
    of the 32 before."""
    losses = [r.get("loss") for r in rows]
    found = []
    for i in range(32, len(rows) if onset is None else min(onset, len(rows))):
        before = [x for x in losses[i - 32 : i] if isinstance(x, float)]
        if not before or not isinstance(losses[i], float):
            continue
        middle = statistics.median(before)
        sigma = 1.4826 * statistics.median(abs(x - middle) for x in before)
        if losses[i] > max(middle + 7 * sigma, 1.2 * middle):
            found.append([i, i + 2])
    return found


def fits(model, name):
    classes = model in ("mlp", "lstm")
    if name == "pla-random":
        return classes
    return name != "hard" or classes


def write(out, name, header, rows):
    with gzip.open(os.path.join(out, name + ".jsonl.gz"), "wt") as file:
        for line in [header] + rows:
            file.write(json.dumps(line) + "\n")


def run(trace, model, name, steps, fault, seed, args):
    """Records one run; a process of its own, as memory is part of what is recorded."""
    make, size, lr = MODELS[model]
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    task = make(digits(args.digits), 4 if name == "tiny" else size, torch.Generator().manual_seed(seed))
    clip = 1.0 if fault.kind in ("explosion", "vanishing") or seed % 2 else None
    rows = record(task, fault, steps, lr, seed, clip)
    onset = fault.onset if fault.kind != "healthy" else None
    header = {"trace": trace, "source": "generated: real CPU run, torch %s, seed %d" % (torch.__version__, seed),
              "label": fault.kind, "onset_step": onset, "end_step": fault.end,
              "ignore_rows": blips(rows, onset), "notes": ""}
    write(args.out, trace, header, rows)
    return "%-22s %-10s %4d rows  loss %s to %s" % (trace, fault.kind, len(rows), rows[0]["loss"], rows[-1].get("loss"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("digits")
    parser.add_argument("--only", default="", help="only runs whose name has this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    with multiprocessing.get_context("fork").Pool(args.jobs, maxtasksperchild=1) as pool:
        runs = []
        for model in MODELS:
            for name, (steps, fault_of) in {**HEALTHY, **FAULTS}.items():
                trace = "gen-%s-%s" % (model, name)
                if args.only in trace and fits(model, name):
                    seed = args.seed * 1000 + zlib.crc32(trace.encode()) % 1000
                    runs.append(pool.apply_async(run, (trace, model, name, steps, fault_of(), seed, args)))
        for recorded in runs:
            print(recorded.get(), flush=True)


if __name__ == "__main__":
    main()
