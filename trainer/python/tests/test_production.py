"""vigil.production and vigil.multitask."""

import math
import threading
import types
import unittest
import uuid

import house

try:
    import torch
except ImportError:
    torch = None

import vigil
from vigil import _records, production


class Monitor(unittest.TestCase):
    def test_shape(self):
        stats = production.SystemMonitor().get_system_stats()
        self.assertEqual(list(stats), ["timestamp", "cpu_percent", "memory", "disk", "gpu"])
        self.assertEqual(list(stats["memory"]), ["percent", "available"])
        self.assertGreater(stats["memory"]["available"], 0)
        self.assertTrue(0 < stats["memory"]["percent"] < 100)
        self.assertTrue(0 <= stats["cpu_percent"] <= 100)
        self.assertTrue(0 < stats["disk"]["percent"] <= 100)
        self.assertIsInstance(stats["gpu"], list)

    def test_thresholds_are_told_once(self):
        self.assertEqual(production.SystemMonitor().alert_thresholds,
                         {"memory_percent": 90.0, "cpu_percent": 95.0, "gpu_memory_percent": 95.0, "disk_usage_percent": 95.0})
        got, told = [], threading.Event()

        def callback(record):
            got.append(record)
            told.set()

        def broken(record):
            raise RuntimeError("the callback is broken")

        monitor = production.SystemMonitor({"memory_percent": 0.001, "disk_usage_percent": 100.0}, [broken, callback])
        monitor.start_monitoring(interval=0.01)
        monitor.start_monitoring(interval=0.01)
        self.assertTrue(told.wait(house.PATIENCE))
        for _ in range(3):
            monitor.check()
        monitor.stop_monitoring()
        monitor.stop_monitoring()
        self.assertEqual([r.message.split()[0] for r in got if "memory" in r.message], ["memory_percent"])
        self.assertEqual(got[0].failure_type, production.FailureType.SYSTEM_RESOURCES)
        self.assertIn("memory", got[0].to_dict()["metrics"])


def batches(n, features=6):
    torch.manual_seed(1)
    for _ in range(n):
        x = torch.randn(16, features)
        yield x, (x[:, 0] > 0).long()


@house.needs("torch")
class Trainers(unittest.TestCase):
    def setUp(self):
        self.run_ = vigil.init("production", signals=False)
        self.addCleanup(self.run_.finish)

    def trainer(self, cls=None, **options):
        torch.manual_seed(0)
        model = torch.nn.Linear(6, 2)
        return (cls or production.GenericTrainer)(model, torch.optim.SGD(model.parameters(), lr=0.5), **options)

    def test_measures(self):
        trainer = self.trainer(max_grad_norm=0.01)
        first = last = None
        for i, batch in enumerate(batches(30)):
            last = trainer.training_step(batch, i)
            first = first or last
        self.assertLessEqual({"loss", "accuracy", "step_duration", "gpu_memory_gb", "gradient_norm"}, set(last))
        self.assertEqual((trainer.step, last["gpu_memory_gb"]), (30, 0.0))
        self.assertGreater(last["gradient_norm"], 0.01)
        self.assertGreater(last["step_duration"], 0)
        self.assertLess(last["loss"], first["loss"])

    def test_a_nan_is_a_failure_and_no_step(self):
        got = []
        trainer = self.trainer(alert_callbacks=[got.append])
        before = trainer.model.weight.detach().clone()
        x, y = next(batches(1))
        x[0, 0] = math.nan
        self.assertTrue(math.isnan(trainer.training_step((x, y), 0)["loss"]))
        self.assertTrue(torch.equal(before, trainer.model.weight))
        self.assertEqual([(r.failure_type, r.recovery_action) for r in got], [(production.FailureType.NAN_LOSS, "skip")])
        self.assertEqual(trainer.step, 0)

    def test_stop_exits_to_be_restarted(self):
        with self.assertRaises(vigil.Interrupted) as raised:
            self.trainer().handle_failure(production.FailureType.HARDWARE_FAILURE, "it burns", "stop")
        self.assertEqual((raised.exception.code, raised.exception.vigil_failure), (75, "FAILURE_KIND_GPU_FAULT"))

    def test_every_failure_has_a_kind(self):
        self.assertEqual(set(_records.KINDS), set(production.FailureType))

    def test_production_trainer_without_an_agent(self):
        trainer = self.trainer(production.ProductionTrainer, monitor_interval=0.01)
        self.assertEqual(trainer.fit(batches(12), steps=10), 10)
        self.assertEqual(trainer.resume(), 10)
        self.assertFalse(trainer.rollback())

    def test_multi_task(self):
        tasks = {"sign": {"type": "classification", "output_size": 2}, "sum": {"type": "regression"}}
        for weighting in ("equal", "uncertainty", "gradnorm", "adaptive"):
            with self.subTest(weighting):
                torch.manual_seed(0)
                model = production.MultiTaskModel(6, tasks, dropout_rate=0.1)
                trainer = production.AdvancedMultiTaskTrainer(
                    {"weighting": weighting, "window": 5}, model, torch.optim.Adam(model.parameters(), lr=0.01), tasks)
                first = last = None
                for i, (x, y) in enumerate(batches(60)):
                    last = trainer.training_step((x, {"sign": y, "sum": 10 * x.sum(1)}), i)
                    first = first or last
                self.assertLess(last["task_losses"]["sum"], first["task_losses"]["sum"])
                weights = trainer.task_weights()
                self.assertEqual(set(weights), set(tasks))
                if weighting in ("gradnorm", "adaptive"):
                    self.assertAlmostEqual(sum(weights.values()), 2.0, places=4)
                if weighting != "equal":
                    self.assertNotEqual(weights["sign"], weights["sum"])
        with self.assertRaises(ValueError):
            production.AdvancedMultiTaskTrainer({"weighting": "magic"}, model, torch.optim.SGD(model.parameters(), lr=1), tasks)


@house.needs("torch")
class MultiTask(unittest.TestCase):
    def test_uncertainty_finds_its_closed_form(self):
        w = vigil.multitask.UncertaintyWeighting(["a", "b"], regression=["a", "b"])
        optimizer = torch.optim.SGD(w.parameters(), lr=0.5)
        losses = {"a": torch.tensor(4.0), "b": torch.tensor(0.25)}
        for _ in range(2000):
            optimizer.zero_grad()
            w(losses).backward()
            optimizer.step()
        # The optimum of exp(-s) L / 2 + s / 2 is exp(s) = L.
        self.assertAlmostEqual(w.weights()["a"], 0.5 / 4.0, places=4)
        self.assertAlmostEqual(w.weights()["b"], 0.5 / 0.25, places=4)

    def test_gradnorm_brings_norms_together(self):
        torch.manual_seed(0)
        shared = torch.nn.Linear(4, 4)
        x = torch.randn(8, 4)
        w = vigil.multitask.GradNorm(["small", "large"], list(shared.parameters()), alpha=0.0)
        for _ in range(400):
            out = shared(x)
            w.update({"small": out.pow(2).mean(), "large": 100 * out.pow(2).mean()})
        weights = w.weights()
        self.assertAlmostEqual(sum(weights.values()), 2.0, places=5)
        self.assertAlmostEqual(weights["small"] / weights["large"] / 100, 1.0, delta=0.2)

    def test_gradnorm_gradient_against_autograd(self):
        torch.manual_seed(1)
        shared = torch.nn.Linear(3, 3)
        x = torch.randn(5, 3)
        w = vigil.multitask.GradNorm(["a", "b", "c"], list(shared.parameters()), alpha=0.12, lr=0.0)
        out = shared(x)
        losses = {"a": out.pow(2).mean(), "b": (out - 1).abs().mean(), "c": out.exp().mean()}
        w.update(losses)
        stacked = torch.stack(list(losses.values()))
        weights = torch.ones(3, requires_grad=True)
        norms = []
        for weight, loss in zip(weights, stacked):
            g = torch.autograd.grad(weight * loss, list(shared.parameters()), retain_graph=True, create_graph=True)
            norms.append(torch.sqrt(sum((p**2).sum() for p in g)))
        norms = torch.stack(norms)
        want = torch.autograd.grad((norms - norms.mean().detach()).abs().sum(), weights)[0]
        self.assertTrue(torch.allclose(w._weights.grad, want, atol=1e-5), "%s, want %s" % (w._weights.grad, want))

    def test_pcgrad_of_two_tasks(self):
        p = torch.nn.Parameter(torch.zeros(2))
        a, b = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
        surgery = vigil.multitask.PCGrad([p])
        surgery.backward({"a": (p * a).sum(), "b": (p * b).sum()})
        want = (a - (a @ b) / (b @ b) * b) + (b - (a @ b) / (a @ a) * a)
        self.assertTrue(torch.allclose(p.grad, want))
        self.assertAlmostEqual(surgery.cosine, -1 / math.sqrt(2), places=6)
        surgery.backward({"a": (p * a).sum(), "b": (p * torch.tensor([1.0, 1.0])).sum()})
        self.assertTrue(torch.allclose(p.grad, torch.tensor([2.0, 1.0])))

    def test_pcgrad_leaves_heads_alone(self):
        shared, head = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
        surgery = vigil.multitask.PCGrad([shared, head])
        surgery.backward({"a": (shared * head).sum(), "b": -shared.sum()})
        self.assertTrue(torch.allclose(head.grad, torch.ones(2)))

    @unittest.skipUnless(house.SOCKET, "go test ./trainer/python starts what these talk to")
    def test_the_agent_weighs(self):
        run = vigil.init("weights-" + uuid.uuid4().hex[:8], socket=house.SOCKET, signals=False)
        self.addCleanup(run.finish)
        house.eventually("the agent", lambda: run.connected)
        torch.manual_seed(3)
        shared = torch.nn.Linear(4, 4)
        x = torch.randn(8, 4)
        here = vigil.multitask.GradNorm(["small", "large"], list(shared.parameters()), alpha=0.12, lr=0.025)
        there = vigil.multitask.AgentWeights(["small", "large"], "gradnorm", shared=list(shared.parameters()), regression=["small", "large"],
                                             settings={"alpha": 0.12, "learning_rate": 0.025})
        conflict = vigil.multitask.AgentWeights(["up", "down"], "pcgrad", shared=list(shared.parameters()))
        kept = None
        for step in range(1, 31):
            out = shared(x)
            losses = {"small": out.pow(2).mean(), "large": 100 * out.pow(2).mean()}
            # The agent answers with the weights before what it learns from the step.
            want = here.weights()
            here.update(losses)
            there.update(losses)
            for name, weight in want.items():
                self.assertAlmostEqual(there.weights()[name], weight, delta=1e-4, msg="step %d" % step)
            if step == 15:
                kept = {k: v for k, v in there.state_dict().items()}
            run.log(step, loss=float(there(losses)))
        last = there.weights()
        # Put back, it goes on from there exactly.
        there.load_state_dict(kept)
        for step in range(16, 31):
            out = shared(x)
            there.update({"small": out.pow(2).mean(), "large": 100 * out.pow(2).mean()}, step=step)
        self.assertEqual(there.weights(), last)
        out = shared(x)
        conflict.update({"up": out.sum(), "down": -out.sum()})
        self.assertAlmostEqual(conflict.cosine, -1.0, places=5)
        # What was answered is in the report of the step that did not say it itself.
        reported = house.eventually("the weights of step 30", lambda: house.steps(run.id).get(30, {}).get("taskWeights"))
        self.assertEqual(reported, last)

    def test_what_is_not_finite_is_not_learnt_from(self):
        asked = []

        class Agent:
            def call(self, method, body):
                asked.append(body)
                return {"weights": [1.0, 1.0]}

        run = types.SimpleNamespace(_link=types.SimpleNamespace(session="s"))
        shared = torch.nn.Parameter(torch.ones(2))
        for method in ("gradnorm", "pcgrad"):
            w = vigil.multitask.AgentWeights(["a", "b"], method, shared=[shared], run=run)
            w._connection = lambda _: Agent()
            # A loss that is finite and whose gradient is not.
            w.update({"a": shared.sum(), "b": torch.sqrt(shared - 1).sum()}, step=1)
            self.assertEqual(asked, [])
            w.update({"a": shared.sum(), "b": (2 * shared).sum()}, step=1)
            self.assertEqual(len(asked), 1)
            asked.clear()

    def test_weights_stay_without_an_agent(self):
        w = vigil.multitask.AgentWeights(["a", "b"], "dwa")
        w.update({"a": torch.tensor(1.0), "b": torch.tensor(3.0)})
        self.assertEqual(float(w({"a": torch.tensor(1.0), "b": torch.tensor(3.0)})), 4.0)
        with self.assertRaises(ValueError):
            vigil.multitask.AgentWeights(["a", "b"], "gradnorm")

    def test_adaptive_weights_follow_who_lags(self):
        w = vigil.multitask.AdaptiveWeights(["fast", "slow"], window=2)
        for fast, slow in ((4.0, 1.0), (4.0, 1.0), (1.0, 1.0), (1.0, 1.0)):
            w.update({"fast": torch.tensor(fast), "slow": torch.tensor(slow)})
        want = 2 * torch.softmax(torch.tensor([0.25, 1.0]) / 2.0, 0)
        self.assertAlmostEqual(w.weights()["slow"], float(want[1]), places=6)


if __name__ == "__main__":
    unittest.main()
