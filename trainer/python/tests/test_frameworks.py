"""Lightning, Transformers and Accelerate, where they are installed: what was
killed or struck ends, bit for bit, as what was left alone."""

import os
import re
import signal
import tempfile
import unittest
import uuid

import house
from vigil import _scratch

MIB = 1 << 20


def name(prefix):
    return "%s-%s" % (prefix, uuid.uuid4().hex[:8])


class Resumed:
    script = ""
    kill_at, nan_at, every = 0, 0, 0
    tensor = ""

    @classmethod
    def setUpClass(cls):
        cls.calm = name("calm")
        cls.out = house.finished(house.spawn(cls.script, cls.calm))
        cls.want = house.digest(cls.out)

    def test_what_is_reported(self):
        steps = house.steps(self.calm)
        self.assertGreaterEqual(len(steps), 50)
        self.assertIn("gradientNorm", steps[40])
        self.assertIn("learningRate", steps[40])
        self.assertIn("loss", steps[40])
        self.assertTrue(house.bodies(self.calm, "evaluation"))
        self.assertEqual(house.bodies(self.calm, "runEnded")[0]["outcome"], "OUTCOME_SUCCEEDED")

    def test_killed_in_mid_epoch(self):
        run = name("killed")
        house.finished(house.spawn(self.script, run, "--checkpoint-every", self.every, "--kill-at", self.kill_at), -signal.SIGKILL)
        saved = house.verified(run)
        out = house.finished(house.spawn(self.script, run, VIGIL_ATTEMPT=1))
        self.assertGreaterEqual(int(re.search(r"begin at step (\d+)", out).group(1)), saved)
        self.assertEqual(house.digest(out), self.want, out)

    def test_struck_saved_and_restarted(self):
        run = name("struck")
        out = house.finished(house.supervised(self.script, run, "--nan-at", self.nan_at))
        self.assertIn("begin at step %d" % (int(self.nan_at) - 1), out)
        self.assertEqual(house.bodies(run, "nonFinite")[0]["tensor"], self.tensor)
        self.assertEqual(house.digest(out), self.want, out)


@house.needs_house
@house.needs("lightning")
class Lightning(Resumed, unittest.TestCase):
    script = "examples/lightning_module.py"
    kill_at, nan_at, every = "54", "51", "13"
    tensor = "net.0.weight.grad"


@house.needs_house
@house.needs("transformers")
class Transformers(Resumed, unittest.TestCase):
    script = "examples/transformers_finetune.py"
    kill_at, nan_at, every = "33", "27", "13"
    tensor = "bert.encoder.layer.0.output.dense.weight.grad"


@house.needs_house
@house.needs("accelerate")
class Accelerate(Resumed, unittest.TestCase):
    script = "examples/accelerate_loop.py"
    kill_at, nan_at, every = "54", "51", "13"
    tensor = "0.weight.grad"


class Written(unittest.TestCase):
    """A staging directory with a file beside it that may be written over."""

    def setUp(self):
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.files = os.path.join(home.name, "files")
        spare = os.path.join(home.name, _scratch.SPARE)
        os.mkdir(self.files)
        os.mkdir(spare)
        with open(os.path.join(spare, "0"), "wb") as f:
            f.write(b"old " * MIB)
        self.inode = os.stat(os.path.join(spare, "0")).st_ino


@house.needs("lightning")
class LightningsFile(Written):
    def trained(self, **options):
        import torch
        from lightning.pytorch import LightningModule, Trainer

        class Module(LightningModule):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(512, 512)

            def training_step(self, batch, i):
                return self.layer(batch).sum()

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

        module = Module()
        trainer = Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                          enable_model_summary=False, **options)
        trainer.fit(module, torch.utils.data.DataLoader(torch.randn(4, 512)))
        return trainer, module

    def save(self, trainer):
        from vigil import lightning

        path = os.path.join(self.files, lightning.FILE)
        before = trainer.strategy.checkpoint_io
        with _scratch.staging(self.files, _scratch.Sizes()), lightning._written_over(trainer.strategy):
            trainer.save_checkpoint(path)
        self.assertIs(trainer.strategy.checkpoint_io, before)
        return path

    def test_it_is_written_over_and_is_what_lightning_writes(self):
        import torch

        trainer, module = self.trained()
        path = self.save(trainer)
        self.assertEqual(os.stat(path).st_ino, self.inode)
        trainer.save_checkpoint(path + ".own")
        mine, own = (torch.load(p, weights_only=False) for p in (path, path + ".own"))
        self.assertEqual(list(mine), list(own))
        self.assertTrue(torch.equal(mine["state_dict"]["layer.weight"], module.layer.weight))
        self.assertTrue(torch.equal(*(c["optimizer_states"][0]["state"][0]["momentum_buffer"] for c in (mine, own))))
        self.assertEqual(mine["loops"], own["loops"])

    def test_what_the_script_chose_to_save_with_is_used(self):
        from lightning.pytorch.plugins.io import TorchCheckpointIO

        asked = []

        class Own(TorchCheckpointIO):
            def save_checkpoint(self, checkpoint, path, storage_options=None):
                asked.append(path)
                super().save_checkpoint(checkpoint, path, storage_options)

        trainer, _ = self.trained(plugins=[Own()])
        path = self.save(trainer)
        self.assertEqual(asked, [path])
        self.assertNotEqual(os.stat(path).st_ino, self.inode)


@house.needs("transformers")
class TransformersFiles(Written):
    def test_what_the_trainer_saved_of_a_sharded_model_is_written_over(self):
        from vigil import transformers

        content = {"model.bin": os.urandom(2 * MIB), "config.json": b"{}", os.path.join("shard", "0.bin"): os.urandom(MIB // 2)}
        with tempfile.TemporaryDirectory() as source:
            os.mkdir(os.path.join(source, "shard"))
            for name, data in content.items():
                with open(os.path.join(source, name), "wb") as f:
                    f.write(data)
            self.assertEqual(transformers._bytes_in(source), sum(len(data) for data in content.values()))
            with _scratch.staging(self.files, _scratch.Sizes()):
                self.assertEqual(transformers._copy(source, self.files, 7), {"step": 7, "format": transformers.FORMAT})
        for name, data in content.items():
            with open(os.path.join(self.files, name), "rb") as f:
                self.assertTrue(f.read() == data, name)
        self.assertEqual(os.stat(os.path.join(self.files, "model.bin")).st_ino, self.inode)


if __name__ == "__main__":
    unittest.main()
