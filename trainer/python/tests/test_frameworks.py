"""Lightning, Transformers and Accelerate, where they are installed: what was
killed or struck ends, bit for bit, as what was left alone."""

import re
import signal
import unittest
import uuid

import house


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


if __name__ == "__main__":
    unittest.main()
