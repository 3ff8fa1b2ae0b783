"""A PyTorch loop that Vigil watches: two added lines, one at the end of each
step, and one to go on from the last checkpoint.

    vigil-trainer run --socket /run/vigil/agent.sock -- python loop.py --nan-at 150
"""

import argparse
import hashlib
import os
import signal
import sys
import time

import torch
from torch.utils.data import DataLoader, TensorDataset

import vigil


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=200)
    p.add_argument("--nan-at", type=int, default=0, help="the gradient turns NaN at this step of the first attempt")
    p.add_argument("--kill-at", type=int, default=0, help="SIGKILL at this step of the first attempt")
    p.add_argument("--checkpoint-every", type=int, default=0)
    p.add_argument("--workers", type=int, default=0)
    p.add_argument("--policy", default="stop")
    p.add_argument("--pace", type=float, default=0.0, help="a step takes at least so many seconds")
    return p.parse_args()


def digest(model):
    h = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        h.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return h.hexdigest()


def main():
    args = arguments()
    torch.manual_seed(7)
    x = torch.randn(330, 16)
    y = (x[:, :4].sum(1) > 0).long()
    loader = vigil.torch.Loader(DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True, num_workers=args.workers))
    model = torch.nn.Sequential(
        torch.nn.Linear(16, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(32, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.steps)

    run = vigil.init("loop", config=args, total_steps=args.steps, checkpoint_every=args.checkpoint_every)
    watch = vigil.watch(model, optimizer, scheduler=scheduler, dataloader=loader, policy=args.policy)
    step = watch.resume()
    print("begin at step %d" % step, flush=True)

    model.train()
    while step < args.steps:
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            if run.attempt == 0 and step + 1 == args.nan_at:
                model[0].weight.grad[3, 5] = float("nan")
            if run.attempt == 0 and step + 1 == args.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            step += 1
            run.log(step, loss=loss, samples=len(labels))
            watch.boundary()
            time.sleep(args.pace)
            if step == args.steps:
                break
    print("parameters sha256 %s" % digest(model), flush=True)
    run.finish(parameters_sha256=digest(model))


if __name__ == "__main__":
    sys.exit(main())
