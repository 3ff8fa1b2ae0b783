"""The hooks into PyTorch and its checkpoints."""

import json
import os
import re
import signal
import sys
import tempfile
import unittest
import uuid

import house

try:
    import torch
    from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
except ImportError:
    torch = None
    Dataset = IterableDataset = object

import vigil


def name(prefix):
    return "%s-%s" % (prefix, uuid.uuid4().hex[:8])


def model_of(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))


def off():
    """A run without an agent."""
    run = vigil.init("off", signals=False)
    return run


class Noisy(Dataset):
    """Draws random numbers for every sample."""

    def __len__(self):
        return 23

    def __getitem__(self, i):
        return torch.tensor(float(i)) + torch.rand(())


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.rand(20))


@house.needs("torch")
class Loaders(unittest.TestCase):
    def batches(self, make, cut, replay=False):
        """What follows after a cut, undisturbed and resumed in a loader made anew."""
        torch.manual_seed(3)
        loader = make(replay)
        seen, saved = [], None
        for _ in range(3):
            for batch in loader:
                seen.append(torch.cat([batch.flatten().float(), torch.rand(1)]))
                if len(seen) == cut:
                    saved = loader.state_dict(), vigil._random.capture()
        torch.manual_seed(99)
        again = make(replay)
        again.load_state_dict(saved[0])
        vigil._random.restore(saved[1])
        rest = []
        while again.epoch < 3:
            for batch in again:
                rest.append(torch.cat([batch.flatten().float(), torch.rand(1)]))
        return seen[cut:], rest

    def test_it_goes_on_where_it_was(self):
        def loader(data, **more):
            return lambda replay: vigil.torch.Loader(DataLoader(data, **more), replay=replay)

        numbers = torch.arange(23.0)
        cases = {
            "shuffled": (loader(numbers, batch_size=4, shuffle=True), False),
            "in order": (loader(numbers, batch_size=4), False),
            "augmented": (loader(Noisy(), batch_size=4, shuffle=True), False),
            "augmented, replayed": (loader(Noisy(), batch_size=4, shuffle=True), True),
            "one by one": (loader(numbers, batch_size=None, shuffle=True), False),
            "workers": (loader(numbers, batch_size=4, shuffle=True, num_workers=2), False),
            "workers, augmented": (loader(Noisy(), batch_size=4, shuffle=True, num_workers=2), True),
            "stream": (loader(Stream(), batch_size=4), False),
            "own generator": (lambda replay: vigil.torch.Loader(
                DataLoader(numbers, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(5))), False),
        }
        for what, (make, replay) in cases.items():
            for cut in (1, 6, 7, 8) if "workers" not in what else (7,):
                with self.subTest(what, cut=cut):
                    want, got = self.batches(make, cut, replay)
                    self.assertEqual(len(got), len(want))
                    for w, g in zip(want, got):
                        self.assertTrue(torch.equal(w, g), "%s: %s, want %s" % (what, g, w))

    def test_distributed_samplers_get_their_epoch(self):
        sampler = torch.utils.data.distributed.DistributedSampler(list(range(8)), num_replicas=2, rank=0)
        loader = vigil.torch.Loader(DataLoader(list(range(8)), batch_size=2, sampler=sampler))
        epochs = [[int(i) for b in loader for i in b] for _ in range(4)]
        self.assertEqual(sampler.epoch, 3)
        self.assertGreater(len({tuple(e) for e in epochs}), 1)


@house.needs("torch")
class Watching(unittest.TestCase):
    def setUp(self):
        self.run_ = off()
        self.addCleanup(self.run_.finish)

    def train(self, watch, model, optimizer, steps, poison=(), clip=False, closure=False):
        for step in range(1, steps + 1):
            def backward():
                optimizer.zero_grad()
                loss = model(torch.randn(3, 4)).sum()
                loss.backward()
                if step in poison:
                    model[3].weight.grad[0, 0] = float("inf")
                return loss
            if closure:
                optimizer.step(backward)
                continue
            backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()

    def test_training_is_bit_for_bit_the_same(self):
        for clip in (False, True):
            for closure in (False, True):
                ends = []
                for watched in (False, True):
                    model = model_of()
                    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
                    watch = vigil.watch(model, optimizer) if watched else None
                    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
                    self.train(watch, model, optimizer, 4, clip=clip, closure=closure)
                    scheduler.step()
                    ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
                    if watch is not None:
                        watch.remove()
                self.assertTrue(torch.equal(*ends))

    def test_skip(self):
        for clip in (False, True):
            for closure in (False, True):
                with self.subTest(clip=clip, closure=closure):
                    model = model_of()
                    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
                    watch = vigil.watch(model, optimizer, policy="skip")
                    self.train(watch, model, optimizer, 5, poison=(2, 3), clip=clip, closure=closure)
                    self.assertEqual(watch.skipped, 2)
                    self.assertTrue(all(torch.isfinite(p).all() for p in model.parameters()))
                    watch.remove()

    def test_too_many_in_a_row_stop(self):
        model = model_of()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        vigil.watch(model, optimizer, policy="skip", max_skips=2)
        with self.assertRaises(vigil.Interrupted) as raised:
            self.train(None, model, optimizer, 5, poison=(2, 3, 4))
        self.assertIn("step 2: 3.weight.grad has 0 NaN and 1 infinite of 16 values", str(raised.exception))

    def test_rollback(self):
        model = model_of()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        watch = vigil.watch(model, optimizer, policy="rollback", snapshot_every=2)
        self.train(watch, model, optimizer, 4)
        kept = [p.detach().clone() for p in model.parameters()]
        self.train(watch, model, optimizer, 2, poison=(2,))
        self.assertEqual(watch.rollbacks, 1)
        self.assertTrue(all(torch.equal(a, b) for a, b in zip(kept, model.parameters())))

    def test_the_norm_is_that_before_clipping(self):
        model = model_of()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        watch = vigil.watch(model, optimizer)
        model(torch.ones(1, 4)).sum().backward()
        want = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
        got = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()
        self.assertAlmostEqual(watch.gradient_norm, float(want), places=5)
        self.assertAlmostEqual(float(got), float(want), places=5)
        self.assertLess(float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()), 2e-3)

    def test_profile(self):
        with tempfile.TemporaryDirectory() as d:
            os.environ["VIGIL_PROFILE_DIR"] = d
            self.addCleanup(os.environ.pop, "VIGIL_PROFILE_DIR")
            model = model_of()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            watch = vigil.watch(model, optimizer)
            watch.profile(steps=2)
            self.train(watch, model, optimizer, 5)
            self.assertFalse(self.run_.profiler.busy)
            path = house.eventually("the trace", lambda: self.run_.profiler.path)
            with open(path) as f:
                self.assertTrue("aten::addmm" in f.read())

    def test_recovery_scales_the_learning_rate_of_each_step(self):
        from vigil import _recovery

        self.run_.recovery = _recovery.Recovery(learning_rate_scale=0.5)
        for closure in (False, True):
            ends = []
            for lr, watched in ((0.05, False), (0.1, True)):
                model = model_of()
                optimizer = torch.optim.SGD(model.parameters(), lr=lr)
                watch = vigil.watch(model, optimizer) if watched else None
                self.train(watch, model, optimizer, 3, closure=closure)
                ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
                self.assertEqual(optimizer.param_groups[0]["lr"], lr)
            self.assertTrue(torch.allclose(*ends))

    def test_recovery_leaves_batches_out(self):
        from vigil import _recovery

        self.run_.recovery = _recovery.Recovery(skip_batches=2, skip_at_step=3)
        model = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = vigil.torch.Loader(DataLoader(torch.arange(8.0).view(8, 1), batch_size=1))
        vigil.watch(model, optimizer, dataloader=loader)
        used = []
        for x in loader:
            used.append(int(x))
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
        self.assertEqual(used, [0, 1, 4, 5, 6, 7])

    def test_half_precision_whose_norm_overflows_is_finite(self):
        model = torch.nn.Linear(4, 4).to(torch.bfloat16)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        watch = vigil.watch(model, optimizer, policy="skip")
        for p in model.parameters():
            p.grad = torch.full_like(p, 3e38)
        optimizer.step()
        self.assertEqual(watch.skipped, 0)

    def blame(self, break_it):
        model = model_of()
        found = vigil._blame
        x = torch.randn(3, 4)
        x = break_it(model, x)
        model(x).sum().backward()
        return found.find(model, list(model.parameters()), ((x,), {}))

    def test_blame(self):
        from vigil import _blame  # noqa: F401

        def parameter(model, x):
            model[0].weight.data[1, 1] = float("nan")
            return x

        def batch(model, x):
            x[1, 2] = float("inf")
            return x

        def module(model, x):
            model[1].register_forward_hook(lambda m, i, o: o * float("nan"))
            return x

        found = self.blame(parameter)
        self.assertEqual((found.tensor, found.quantity, found.intact), ("0.weight", "parameter", False))
        self.assertEqual(self.blame(batch).note, "the batch itself is not finite")
        self.assertEqual(self.blame(module).note, "in the forward pass it begins in 1")
        self.assertIsNone(self.blame(lambda model, x: x))

    def test_looking_again_leaves_no_trace(self):
        from vigil import _blame

        model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))
        before = {k: v.clone() for k, v in model.state_dict().items()}
        x = torch.randn(5, 4)
        generator = torch.get_rng_state()
        self.assertEqual(_blame._forward(model, ((x,), {})), "")
        self.assertTrue(torch.equal(torch.get_rng_state(), generator))
        self.assertTrue(all(torch.equal(before[k], v) for k, v in model.state_dict().items()))


@house.needs("torch")
@house.needs_house
@house.needs("torch")
class Profiled(unittest.TestCase):
    def test_an_operator_asks_for_a_profile(self):
        run = name("profiled")
        process = house.spawn("examples/loop.py", run, "--steps", "100000", "--pace", "0.002")
        self.addCleanup(process.kill)
        house.eventually("steps of " + run, lambda: len(house.steps(run)) > 2)
        asked = house.operator("RunService/ProfileRun", {"runId": run, "steps": 3, "ranks": [0]})[0]
        self.assertEqual(asked["ranks"], [0])

        def recorded():
            found = [p for p in house.bodies(run, "profile") if p["state"] != "PROFILE_STATE_DIRECTED"]
            return found and found[0]

        told = house.eventually("the profile", recorded)
        self.assertEqual(told["state"], "PROFILE_STATE_RECORDED", told)
        self.assertEqual(int(told["lastStep"]) - int(told["firstStep"]), 2)
        self.assertEqual(os.path.getsize(told["path"]), int(told["sizeBytes"]))
        with open(told["path"]) as f:
            trace = json.load(f)
        events = trace["traceEvents"] if isinstance(trace, dict) else trace  # torch 1 writes the list alone
        # Three steps of the optimizer are in it, and no more.
        marks = [e for e in events if str(e.get("name", "")).startswith("Optimizer.step")]
        self.assertEqual(len(marks), 3, {e.get("name") for e in events if "ptimizer" in str(e.get("name"))})
        process.send_signal(signal.SIGKILL)
        process.wait()


class Directories(unittest.TestCase):
    def test_save_and_load_without_an_agent(self):
        with tempfile.TemporaryDirectory() as d:
            place = os.path.join(d, "last")
            model = model_of()
            optimizer = torch.optim.Adam(model.parameters())
            model(torch.randn(2, 4)).sum().backward()
            optimizer.step()
            for step in (1, 2):
                self.assertEqual(vigil.torch.save_checkpoint(model, optimizer, step=step, directory=place, extra={"best": 0.5}), place)
            drawn = torch.rand(3)
            other = model_of(seed=5)
            second = torch.optim.Adam(other.parameters())
            loaded = vigil.torch.load_checkpoint(other, second, directory=place)
            self.assertEqual((loaded.step, loaded.extra), (2, {"best": 0.5}))
            self.assertTrue(torch.equal(torch.rand(3), drawn))
            self.assertTrue(all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters())))
            self.assertEqual(os.listdir(d), ["last"])
            self.assertIsNone(vigil.torch.load_checkpoint(other, directory=os.path.join(d, "none")))


@house.needs_house
@house.needs("torch")
class Resumed(unittest.TestCase):
    """The proof: what was killed or struck ends as what was left alone."""

    @classmethod
    def setUpClass(cls):
        cls.want = house.digest(house.finished(house.spawn("examples/loop.py", name("calm"))))

    def test_killed_in_mid_epoch(self):
        run = name("killed")
        first = house.spawn("examples/loop.py", run, "--checkpoint-every", "29", "--kill-at", "110", "--pace", "0.005")
        house.finished(first, -signal.SIGKILL)
        saved = house.verified(run, 58)
        self.assertNotEqual(saved % 21, 0)  # 21 batches an epoch
        out = house.finished(house.spawn("examples/loop.py", run, VIGIL_ATTEMPT=1))
        begun = int(re.search(r"begin at step (\d+)", out).group(1))
        self.assertGreaterEqual(begun, saved)
        self.assertEqual(house.digest(out), self.want)

    def test_struck_saved_and_restarted(self):
        run = name("struck")
        out = house.finished(house.supervised("examples/loop.py", run, "--nan-at", "100"))
        self.assertIn("begin at step 99", out)
        self.assertEqual(house.digest(out), self.want)
        met = house.bodies(run, "nonFinite")[0]
        self.assertEqual((met["step"], met["tensor"], met["nanCount"], met["parametersIntact"]), ("100", "0.weight.grad", "1", True))
        steps = house.eventually("all steps", lambda: (lambda s: len(s) == 200 and s)(house.steps(run)))
        self.assertGreater(steps[150]["gradientNorm"], 0)
        self.assertIn("dataSeconds", steps[150])
        self.assertIn("learningRate", steps[150])


if __name__ == "__main__":
    unittest.main()
