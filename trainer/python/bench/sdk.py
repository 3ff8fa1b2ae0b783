"""What the SDK costs in the training thread, beside its peers where they are
installed, in one run. `make bench-sdk` starts the agent that it talks to."""

import logging
import os
import statistics
import sys
import tempfile
import time

import vigil

CALLS = 3000
PAUSE = 0.0005  # between calls, as a training step lies between them


def line(what, times):
    times = sorted(t * 1e6 for t in times)
    print("%-44s median %8.1f us   mean %8.1f us   p99 %8.1f us" % (
        what, statistics.median(times), statistics.fmean(times), times[int(0.99 * len(times))]), flush=True)
    return statistics.median(times)


def calls(log, n=CALLS):
    found = []
    for step in range(1, n + 1):
        began = time.perf_counter()
        log(step)
        found.append(time.perf_counter() - began)
        time.sleep(PAUSE)
    return found


def peers():
    found = {}
    try:
        import wandb

        os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DIR=tempfile.mkdtemp())
        run = wandb.init(project="bench")
        found["wandb %s offline, run.log" % wandb.__version__] = lambda step: run.log({"loss": 0.5, "grad_norm": 1.0, "lr": 0.1}, step=step)
    except Exception as e:  # noqa: BLE001
        print("wandb: %s" % e)
    try:
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        mlflow.set_tracking_uri("sqlite:///" + os.path.join(tempfile.mkdtemp(), "m.db"))
        mlflow.start_run()
        found["mlflow %s local, log_metrics" % mlflow.__version__] = lambda step: mlflow.log_metrics({"loss": 0.5, "grad_norm": 1.0, "lr": 0.1}, step=step)
    except Exception as e:  # noqa: BLE001
        print("mlflow: %s" % e)
    return found


def watched(size, batch, clip, steps):
    import torch

    torch.set_num_threads(1)

    def setup(watch):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(32, size), torch.nn.ReLU(), torch.nn.Linear(size, size), torch.nn.ReLU(), torch.nn.Linear(size, 10))
        optimizer = torch.optim.AdamW(model.parameters())
        hooks = vigil.watch(model, optimizer) if watch else None
        x, y = torch.randn(batch, 32), torch.randint(0, 10, (batch,))

        def step(number):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if watch:
                vigil.current().log(number, samples=batch)
        return step, hooks

    plain, _ = setup(False)
    hooked, hooks = setup(True)
    without, with_ = [], []
    for i in range(1, steps + 1):  # in turns, so that a busy machine meets both
        for step, into in ((plain, without), (hooked, with_)):
            began = time.perf_counter()
            step(i)
            into.append(time.perf_counter() - began)
    hooks.remove()
    name = "hidden %d, batch %d%s" % (size, batch, ", clipped" if clip else "")
    a, b = line("PyTorch %s: step, %s" % (torch.__version__, name), without), line("  with vigil.watch and run.log", with_)
    print("  vigil adds %.1f us, %.1f %% of the step" % (b - a, 100 * (b - a) / a), flush=True)


def main():
    run = vigil.init("bench", connect_seconds=10)
    print("Python %s, %s" % (sys.version.split()[0], "agent connected" if run.connected else "no agent"))
    line("vigil, run.log of three measures", calls(lambda step: run.log(step, loss=0.5, grad_norm=1.0, lr=0.1)))
    began = time.perf_counter()
    for step in range(CALLS, 2 * CALLS):
        run.log(step, loss=0.5, grad_norm=1.0, lr=0.1)
    print("%-44s %s %8.1f us" % ("vigil, back to back", "mean  ", (time.perf_counter() - began) / CALLS * 1e6))
    for what, log in peers().items():
        line(what, calls(log, CALLS // 10))
    try:
        import torch  # noqa: F401
    except ImportError:
        return
    watched(64, 256, False, 400)
    watched(64, 256, True, 400)
    watched(512, 256, False, 200)
    watched(512, 256, True, 200)


if __name__ == "__main__":
    main()
