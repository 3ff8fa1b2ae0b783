"""A loop with Hugging Face Accelerate that Vigil watches: what prepare gave goes
to vigil.accelerate.watch, and one call ends each step.

    vigil-trainer run --socket /run/vigil/agent.sock -- python accelerate_loop.py --nan-at 51
"""

import argparse
import os
import signal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader, TensorDataset

import vigil
from loop import digest


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=80)
    p.add_argument("--nan-at", type=int, default=0)
    p.add_argument("--kill-at", type=int, default=0)
    p.add_argument("--checkpoint-every", type=int, default=0)
    args = p.parse_args()
    set_seed(7)
    accelerator = Accelerator(cpu=True)
    x = torch.randn(330, 16)
    y = (x[:, :4].sum(1) > 0).long()
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.LayerNorm(32), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(32, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.steps)
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
    model, optimizer, scheduler, loader = accelerator.prepare(model, optimizer, scheduler, loader)
    loader = vigil.torch.Loader(loader)

    run = vigil.init("accelerate", config=args, total_steps=args.steps, checkpoint_every=args.checkpoint_every)
    watch = vigil.accelerate.watch(accelerator, model, optimizer, scheduler=scheduler, dataloader=loader)
    step = watch.resume()
    print("begin at step %d" % step, flush=True)
    while step < args.steps:
        model.train()
        for inputs, labels in loader:
            with accelerator.accumulate(model):
                loss = torch.nn.functional.cross_entropy(model(inputs), labels)
                accelerator.backward(loss)
                if run.attempt == 0 and step + 1 == args.nan_at:
                    accelerator.unwrap_model(model)[0].weight.grad[3, 5] = float("nan")
                if run.attempt == 0 and step + 1 == args.kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            step += 1
            run.log(step, loss=loss, samples=len(labels))
            watch.boundary()
            if step == args.steps:
                break
        model.eval()
        with torch.no_grad(), run.phase("evaluation"):
            run.evaluated(step, loss=float(torch.nn.functional.cross_entropy(model(x[:64]), y[:64])))
    print("parameters sha256 %s" % digest(accelerator.unwrap_model(model)), flush=True)
    run.finish()


if __name__ == "__main__":
    main()
