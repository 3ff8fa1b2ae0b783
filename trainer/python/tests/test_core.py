"""The SDK without any framework, against a real agent and control plane."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid

import house
import vigil
from vigil import _failure, _queue, _recovery, _report, _settings, _wire


def name(prefix):
    return "%s-%s" % (prefix, uuid.uuid4().hex[:8])


class Values(unittest.TestCase):
    def test_numbers(self):
        for value, want in ((1, 1.0), (2.5, 2.5), (float("nan"), "NaN"), (float("inf"), "Infinity"),
                            (float("-inf"), "-Infinity"), ("x", None), (None, None), (True, 1.0)):
            self.assertEqual(_wire.number(value), want, value)

    def test_time(self):
        text = _wire.timestamp(1_700_000_000_123_456_789)
        self.assertEqual(text, "2023-11-14T22:13:20.123456789Z")
        self.assertAlmostEqual(_wire.parse_timestamp(text), 1_700_000_000.123456789, places=5)
        self.assertIsNone(_wire.parse_timestamp("tomorrow"))

    def test_ids_are_version_7_and_leave_the_random_module_alone(self):
        import random

        random.seed(1)
        before = random.getstate()
        made = {_wire.new_id(time.time_ns()) for _ in range(1000)}
        self.assertEqual(random.getstate(), before)
        self.assertEqual(len(made), 1000)
        self.assertEqual({uuid.UUID(i).version for i in made}, {7})

    def test_cut_keeps_whole_characters(self):
        self.assertEqual(_wire.cut("äöü", 3), "ä")
        self.assertEqual(_wire.cut("äöü", 3, keep_end=True), "ü")
        self.assertEqual(_wire.cut("abc", 3), "abc")

    def test_measures_get_their_places(self):
        report = {}
        _report.fill(report, {"loss": 0.5, "lr": 1e-3, "samples": 64, "tasks": {"a": float("nan")}, "accuracy": 0.9, "note": "text"})
        self.assertEqual(report, {"loss": 0.5, "learningRate": 1e-3, "samples": "64", "taskLosses": {"a": "NaN"}, "metrics": {"accuracy": 0.9}})


class Queues(unittest.TestCase):
    def test_drops_are_counted_and_events_have_their_own_room(self):
        q = _queue.Queue(4)
        q.put_event(0, {"phase": {}})
        for i in range(10):
            q.put_step(0, i, {})
        items = q.take(100)
        self.assertEqual([i.step for i in items if i.event is None], [6, 7, 8, 9])
        self.assertEqual(sum(i.event is not None for i in items), 1)
        self.assertEqual(q.drops(), 6)
        q.lose(2)
        self.assertEqual(q.drops(), 8)

    def test_many_threads(self):
        q = _queue.Queue(100)
        got, done = [], threading.Event()

        def take():
            while not done.is_set() or len(q):
                got.extend(q.take(7))

        taker = threading.Thread(target=take)
        taker.start()
        putters = [threading.Thread(target=lambda: [q.put_step(0, 1, {}) for _ in range(5000)]) for _ in range(4)]
        for p in putters:
            p.start()
        for p in putters:
            p.join()
        done.set()
        taker.join()
        self.assertEqual(len(got) + q.drops(), 20000)


class Settings(unittest.TestCase):
    def test_environments(self):
        for env, want in (
            ({"VIGIL_RUN_ID": "r", "VIGIL_ATTEMPT": "2", "RANK": "1", "WORLD_SIZE": "4"}, ("r", 2, 1, 4)),
            ({"TORCHELASTIC_RUN_ID": "el", "TORCHELASTIC_RESTART_COUNT": "3"}, ("el", 3, 0, 1)),
            ({"SLURM_JOB_ID": "77", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_RESTART_COUNT": "1"}, ("slurm-77", 1, 5, 8)),
            ({"SLURM_JOB_ID": "77", "SLURM_PROCID": "0"}, ("slurm-77", 0, 0, 1)),
            ({"VIGIL_RUN_ID": "r", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, ("r", 0, 1, 2)),
        ):
            s, wrong = _settings.read(env, None, None, {})
            self.assertEqual((s.run_id, s.attempt, s.rank, s.world_size), want, env)
            self.assertEqual(wrong, [])

    def test_what_is_wrong_is_said_and_never_raised(self):
        s, wrong = _settings.read({"VIGIL_RUN_ID": "r", "RANK": "many", "WORLD_SIZE": "-1"}, "n", {"a": {"b": 1}}, {})
        self.assertEqual((s.rank, s.world_size, s.config, s.name), (0, 1, {"a.b": "1"}, "n"))
        self.assertEqual(len(wrong), 2)

    def test_run_ids(self):
        for text, want in (("my run/7", "my-run-7"), ("..x", "x"), ("", "run"), ("ok_1.2-3", "ok_1.2-3")):
            self.assertEqual(_settings.run_id(text), want)


class Recoveries(unittest.TestCase):
    def test_what_is_asked_for(self):
        r = _recovery.read({
            "VIGIL_RECOVERY": '{"from": "earlier", "except": ["c"], "skip_batches": 3, "skip_at_step": 8, "learning_rate_scale": 0.5}',
            "VIGIL_RECOVERY_MODE": "exact", "VIGIL_RESUME_FALLBACK": "false", "VIGIL_MAX_CHECKPOINT_BYTES": "10"})
        self.assertEqual((r.source, r.skip_batches, r.skip_at_step, r.learning_rate_scale), ("earlier", 3, 8, 0.5))
        self.assertEqual((r.mode, r.fallback, r.max_checkpoint_bytes, r.changes, r.wrong), ("RECOVERY_MODE_EXACT", False, 10, True, []))

    def test_nothing_and_nonsense(self):
        r = _recovery.read({})
        self.assertEqual((r.changes, r.fallback, r.wrong, r.learning_rate_scale), (False, True, [], 1.0))
        for env in ({"VIGIL_RECOVERY": "{"}, {"VIGIL_RECOVERY": "[]"}, {"VIGIL_RECOVERY_MODE": "x"}, {"VIGIL_MAX_CHECKPOINT_BYTES": "x"}):
            r = _recovery.read(env)
            self.assertEqual((len(r.wrong), r.changes), (1, False), env)

    def test_too_large(self):
        with tempfile.TemporaryDirectory() as d:
            with open(os.path.join(d, "x"), "wb") as f:
                f.write(b"12345")
            self.assertIsNone(_recovery.too_large(d, 0))
            self.assertIsNone(_recovery.too_large(d, 5))
            self.assertIn("5 bytes", _recovery.too_large(d, 4))


class Failures(unittest.TestCase):
    def test_kinds(self):
        class OutOfMemoryError(RuntimeError):
            pass

        for error, want in (
            (MemoryError(), "HOST_OOM"), (OutOfMemoryError("x"), "GPU_OOM"), (RuntimeError("CUDA out of memory. Tried"), "GPU_OOM"),
            (OSError(28, "No space left on device"), "DISK_FULL"), (RuntimeError("NCCL error: unhandled"), "NETWORK"),
            (ConnectionResetError(), "NETWORK"), (RuntimeError("DataLoader worker (pid 3) is killed"), "DATA"),
            (ValueError("loss is nan at step 3"), "NONFINITE"), (ValueError("financial"), "CRASH"), (KeyError("x"), "CRASH"),
            (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "GPU_FAULT"),
            (vigil.Interrupted("x", "FAILURE_KIND_NONFINITE"), "NONFINITE"),
        ):
            self.assertEqual(_failure.kind(error), "FAILURE_KIND_" + want, error)


class WithoutAgent(unittest.TestCase):
    def test_everything_is_a_no_op(self):
        code = """
import vigil, sys
run = vigil.init("alone", config={"lr": 1})
assert vigil.init() is run and vigil.current() is run
for i in range(3): run.log(i + 1, loss=0.5)
with run.step() as step: step.log(loss=1.0)
run.evaluated(loss=1.0); run.change("data"); run.change("nonsense")
with run.phase("evaluation"): pass
assert run.resume() is None
assert run.checkpoint(lambda d: sys.exit("called")) is None
assert not run.should_checkpoint and not run.should_stop and not run.connected and run.last_step == 4
run.log("x", loss=object())
run.finish(); run.finish(); run.log(9, loss=1.0)
"""
        env = dict(os.environ, PYTHONPATH=house.PACKAGE)
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr.count("no agent"), 1, done.stderr)

    def test_a_silent_agent_holds_nothing_up(self):
        with tempfile.TemporaryDirectory() as d:
            agent = house.silent_agent(os.path.join(d, "s"))
            run = vigil.init("silent", socket=os.path.join(d, "s"), connect_seconds=0.01, signals=False)
            try:
                began = time.perf_counter()
                for i in range(20000):
                    run.log(i, loss=0.5)
                logged = time.perf_counter() - began
                self.assertFalse(run.connected)
                self.assertIsNone(run.resume(timeout=0.01))
                self.assertIsNone(run.checkpoint(lambda d: None))
                self.assertLess(len(run._queue), 20000)
            finally:
                run.finish()
                agent.close()
            # A call that waited once for the agent would have taken seconds.
            self.assertLess(logged, 20000 * run._settings.call_seconds / 100)


@house.needs_house
class WithAgent(unittest.TestCase):
    def init(self, prefix, **more):
        run = vigil.init(name(prefix), socket=house.SOCKET, signals=False, connect_seconds=30, **more)
        self.addCleanup(run.finish)
        self.assertTrue(run.connected)
        return run

    def test_reports_arrive(self):
        run = self.init("reports", config={"lr": 0.1, "opt": {"name": "sgd"}}, total_steps=3)
        run.log(1, loss=0.5, grad_norm=2.0, lr=0.1, tasks={"a": 0.25}, accuracy=0.75)
        run.log(2, loss=float("inf"))
        with run.step(samples=8) as step:
            step.log(loss=0.25)
        run.evaluated(loss=0.125, accuracy=0.5)
        with run.phase("evaluation"):
            pass
        run.finish(parameters_sha256="ab")
        house.eventually("the run's end", lambda: house.bodies(run.id, "runEnded"))
        registered = house.bodies(run.id, "trainerRegistered")[0]
        self.assertEqual(registered["settings"], {"lr": "0.1", "opt.name": "sgd"})
        steps = house.steps(run.id)
        self.assertEqual(sorted(steps), [1, 2, 3])
        self.assertEqual((steps[1]["loss"], steps[1]["gradientNorm"], steps[1]["taskLosses"]), (0.5, 2.0, {"a": 0.25}))
        self.assertEqual(steps[1]["metrics"], {"accuracy": 0.75})
        self.assertEqual(steps[2]["loss"], "Infinity")
        self.assertEqual(steps[3]["samples"], "8")
        self.assertGreater(steps[3]["stepSeconds"], 0)
        self.assertEqual(house.bodies(run.id, "evaluation")[0]["metrics"], {"accuracy": 0.5})
        self.assertEqual([p["edge"] for p in house.bodies(run.id, "phase")], ["PHASE_EDGE_BEGIN", "PHASE_EDGE_END"])
        end = house.bodies(run.id, "runEnded")[0]
        self.assertEqual((end["outcome"], end["step"], end["parametersSha256"]), ("OUTCOME_SUCCEEDED", "3", "ab"))

    def test_save_and_resume(self):
        run = self.init("save")
        run.log(7, loss=0.5)

        def write(directory):
            with open(os.path.join(directory, "state.txt"), "w") as f:
                f.write("seven")
            return {"data_position": 70, "nonfinite_parameters": 0, "format": "text/1"}

        self.assertIsNone(run.checkpoint(lambda d: 1 / 0))
        saved = run.checkpoint(write)
        self.assertIsNotNone(saved)
        self.assertEqual(house.verified(run.id), 7)
        run.finish()
        again = vigil.init("again", socket=house.SOCKET, signals=False, connect_seconds=30)
        again.finish()
        os.environ["VIGIL_RUN_ID"], os.environ["VIGIL_ATTEMPT"] = run.id, "1"
        self.addCleanup(os.environ.pop, "VIGIL_ATTEMPT")
        try:
            later = self.init("ignored")
        finally:
            os.environ["VIGIL_RUN_ID"] = ""
        found = later.resume()
        self.assertEqual((found.step, found.data_position, found.checkpoint_id, found.format), (7, 70, saved, "text/1"))
        with open(os.path.join(found, "state.txt")) as f:
            self.assertEqual(f.read(), "seven")
        later.log(8, loss=0.25)
        later.finish()
        resumed = house.eventually("the resumption", lambda: house.bodies(run.id, "resumed"))[0]
        self.assertEqual((resumed["checkpointId"], resumed["step"]), (saved, "7"))
        failed = [c for c in house.bodies(run.id, "checkpoint") if c["state"] == "CHECKPOINT_STATE_FAILED"]
        self.assertIn("division by zero", failed[0]["error"])

    def test_an_operator_has_it_saved(self):
        run = self.init("ordered")
        run.log(1, loss=0.5)
        house.eventually("the first step", lambda: house.steps(run.id))
        order = house.operator("CheckpointService/RequestCheckpoint", {"runId": run.id, "after": "AFTER_CHECKPOINT_STOP"})[0]
        house.eventually("the directive", lambda: run.should_checkpoint)
        self.assertTrue(run.should_stop)

        def write(directory):
            open(os.path.join(directory, "x"), "w").write("x")

        self.assertEqual(run.checkpoint(write), order["checkpoint"]["checkpointId"])
        self.assertFalse(run.should_checkpoint)
        self.assertTrue(run.should_stop)
        with self.assertRaises(vigil.Interrupted) as raised:
            run.exit()
        self.assertEqual(raised.exception.code, 75)
        self.assertEqual(house.verified(run.id), 1)
        run.finish()

    def test_a_non_finite_value_is_answered(self):
        run = self.init("nonfinite")
        run.log(1, loss=0.5)
        order = run.non_finite(2, "layer.weight.grad", nan_count=3, size=9)
        self.assertTrue(order.ends)
        self.assertEqual(order.failure, "FAILURE_KIND_NONFINITE")
        self.assertEqual(order.reason, "CHECKPOINT_REASON_EMERGENCY")
        met = house.bodies(run.id, "nonFinite")[0]
        self.assertEqual((met["step"], met["tensor"], met["nanCount"]), ("2", "layer.weight.grad", "3"))
        run.finish()

    def test_a_hang_is_told_with_the_stacks_of_all_threads(self):
        run = self.init("hang", hang_seconds=0.4)
        for i in range(3):
            run.log(i + 1, loss=0.5)
        dump = house.eventually("the stacks", lambda: house.bodies(run.id, "stackDump"))[0]
        self.assertEqual(dump["lastStep"], "3")
        self.assertIn("test_a_hang_is_told", dump["text"])
        self.assertIn("no step for", dump["reason"])
        run.finish()

    def test_a_forked_child_is_not_the_rank(self):
        run = self.init("fork")
        pid = os.fork()
        if pid == 0:
            try:
                run.log(99, loss=1.0)
                ok = vigil.current() is None and not run.connected and run.checkpoint(lambda d: None) is None
                run.finish()
            finally:
                os._exit(0 if ok else 1)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        run.log(1, loss=0.5)
        run.finish()
        house.eventually("the run's end", lambda: house.bodies(run.id, "runEnded"))
        self.assertEqual(sorted(house.steps(run.id)), [1])


SCRIPT = """
import os, sys, time, vigil
run = vigil.init("script")
run.log(1, loss=0.5)
"""


@house.needs_house
class Processes(unittest.TestCase):
    def run_script(self, prefix, more, code):
        run = name(prefix)
        p = subprocess.Popen([sys.executable, "-c", SCRIPT + more], env=house.environment(run), stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)
        return run, p, (lambda: house.finished(p, code))

    def test_an_exception_is_reported_and_still_raised(self):
        run, _, wait = self.run_script("raises", "raise RuntimeError('CUDA out of memory. Tried to allocate')", 1)
        self.assertIn("Traceback", wait())
        e = house.eventually("the exception", lambda: house.bodies(run, "exception"))[0]
        self.assertEqual((e["type"], e["failure"], e["step"]), ("RuntimeError", "FAILURE_KIND_GPU_OOM", "2"))
        self.assertIn("Traceback", e["traceback"])
        end = house.eventually("the end", lambda: house.bodies(run, "runEnded"))[0]
        self.assertEqual(end["outcome"], "OUTCOME_FAILED")

    def test_exit_codes_and_good_ends(self):
        for more, code, outcome in (("", 0, "OUTCOME_SUCCEEDED"), ("sys.exit(3)", 3, "OUTCOME_FAILED"), ("sys.exit(0)", 0, "OUTCOME_SUCCEEDED")):
            run, _, wait = self.run_script("ends", more, code)
            wait()
            end = house.eventually("the end", lambda: house.bodies(run, "runEnded"))[0]
            self.assertEqual(end["outcome"], outcome, more)

    def test_sigterm_is_taken_only_by_a_loop_that_asks(self):
        deaf = "print('ready', flush=True)\nwhile True: time.sleep(0.01)"
        _, p, _ = self.run_script("deaf", deaf, 0)
        self.assertEqual(p.stdout.readline().strip(), "ready")
        p.terminate()
        p.communicate(timeout=house.PATIENCE)
        self.assertEqual(p.returncode, -signal.SIGTERM)
        asks = """
assert not run.should_stop
print('ready', flush=True)
step = 1
while not run.should_stop: time.sleep(0.01)
def write(d): open(os.path.join(d, "x"), "w").write("x")
run.saver = write
run.exit()
"""
        run, p, wait = self.run_script("asks", asks, 75)
        self.assertEqual(p.stdout.readline().strip(), "ready")
        p.terminate()
        wait()
        house.verified(run)
        self.assertEqual(house.eventually("the notice", lambda: house.bodies(run, "preemption"))[0]["source"], "SIGTERM")
        self.assertEqual(house.eventually("the end", lambda: house.bodies(run, "runEnded"))[0]["outcome"], "OUTCOME_STOPPED")


if __name__ == "__main__":
    unittest.main()
