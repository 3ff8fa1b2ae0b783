"""A Lightning module that Vigil watches: one callback, and ckpt_path=callback.resume().

    vigil-trainer run --socket /run/vigil/agent.sock -- python lightning_module.py --nan-at 60
"""

import argparse
import os
import signal
import tempfile

import torch
from torch.utils.data import DataLoader, TensorDataset

import lightning
import vigil
from loop import digest


class Classifier(lightning.LightningModule):
    def __init__(self, args):
        super().__init__()
        self.args = args
        self.net = torch.nn.Sequential(
            torch.nn.Linear(16, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(32, 2))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self.net(x), y)
        self.log("train_accuracy", (self.net(x).argmax(1) == y).float().mean())
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", torch.nn.functional.cross_entropy(self.net(x), y))

    def on_after_backward(self):
        step = self.global_step + 1
        if vigil.current().attempt == 0 and step == self.args.nan_at:
            self.net[0].weight.grad[3, 5] = float("nan")
        if vigil.current().attempt == 0 and step == self.args.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.args.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=100)
    p.add_argument("--nan-at", type=int, default=0)
    p.add_argument("--kill-at", type=int, default=0)
    p.add_argument("--checkpoint-every", type=int, default=0)
    args = p.parse_args()
    lightning.seed_everything(7, verbose=False)
    x = torch.randn(330, 16)
    y = (x[:, :4].sum(1) > 0).long()
    train = vigil.torch.Loader(DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True))
    held_out = DataLoader(TensorDataset(x[:64], y[:64]), batch_size=32)

    callback = vigil.lightning.VigilCallback(name="lightning", checkpoint_every=args.checkpoint_every)
    resume = callback.resume()
    print("begin at step %d" % callback.run.last_step, flush=True)
    module = Classifier(args)
    trainer = lightning.Trainer(
        max_steps=args.steps, max_epochs=-1, callbacks=[callback], accelerator="cpu", devices=1, logger=False, gradient_clip_val=1.0,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tempfile.mkdtemp())
    trainer.fit(module, train, held_out, ckpt_path=resume)
    print("parameters sha256 %s" % digest(module), flush=True)


if __name__ == "__main__":
    main()
