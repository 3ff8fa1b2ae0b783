"""A Transformers fine-tune of a tiny, randomly initialised model that Vigil
watches: one callback, and resume_from_checkpoint=vigil.transformers.resume().

    vigil-trainer run --socket /run/vigil/agent.sock -- python transformers_finetune.py --nan-at 30
"""

import argparse
import os
import signal
import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments, set_seed

import vigil
from loop import digest


class Fault(TrainerCallback):
    """Strikes once, in the first attempt."""

    def __init__(self, args):
        self.args = args

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        def strike(gradient):
            if vigil.current().attempt == 0 and state.global_step + 1 == self.args.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if vigil.current().attempt == 0 and state.global_step + 1 == self.args.nan_at:
                gradient = gradient.clone()
                gradient[1, 2] = float("nan")
            return gradient

        model.bert.encoder.layer[0].output.dense.weight.register_hook(strike)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--nan-at", type=int, default=0)
    p.add_argument("--kill-at", type=int, default=0)
    p.add_argument("--checkpoint-every", type=int, default=0)
    args = p.parse_args()
    set_seed(7)
    model = BertForSequenceClassification(BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=16))
    tokens = torch.randint(1, 64, (150, 12))
    data = [{"input_ids": t, "labels": int(t[0] > 32)} for t in tokens]
    trainer = Trainer(
        model=model, train_dataset=data, eval_dataset=data[:16],
        args=TrainingArguments(
            output_dir=tempfile.mkdtemp(), max_steps=args.steps, per_device_train_batch_size=8, learning_rate=1e-3, logging_steps=5,
            eval_strategy="steps", eval_steps=20, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, seed=7),
        callbacks=[Fault(args), vigil.transformers.VigilCallback(name="transformers", checkpoint_every=args.checkpoint_every)])
    resume = vigil.transformers.resume(name="transformers")
    print("begin at step %d" % vigil.current().last_step, flush=True)
    trainer.train(resume_from_checkpoint=resume)
    print("parameters sha256 %s" % digest(model), flush=True)


if __name__ == "__main__":
    main()
