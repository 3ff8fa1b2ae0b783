"""Several ranks: they save the same step, and go on from it."""

import re
import signal
import socket
import unittest
import uuid

import house


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@house.needs_house
@house.needs("torch")
class Ranks(unittest.TestCase):
    def launch(self, run, pace, attempt=0, *more):
        env = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port(), "GLOO_SOCKET_IFNAME": "lo", "VIGIL_ATTEMPT": attempt}
        return [house.spawn("ranks.py", run, "100", pace, *more, RANK=rank, **env) for rank in range(2)]

    def check(self, *more):
        calm, cut = ["%s-%s" % (n, uuid.uuid4().hex[:8]) for n in ("calm", "cut")]
        want = {house.digest(house.finished(p)) for p in self.launch(calm, "0", 0, *more)}
        self.assertEqual(len(want), 1)
        processes = self.launch(cut, "0.05", 0, *more)
        house.eventually("some steps", lambda: len(house.steps(cut)) > 5)
        house.operator("CheckpointService/RequestCheckpoint", {"runId": cut})
        saved = house.verified(cut)
        for p in processes:
            p.send_signal(signal.SIGKILL)
        for p in processes:
            p.communicate()
        outs = [house.finished(p) for p in self.launch(cut, "0", 1, *more)]
        for out in outs:
            self.assertEqual(int(re.search(r"begin at step (\d+)", out).group(1)), saved, out)
            self.assertEqual({house.digest(out)}, want)

    def test_every_rank_its_own(self):
        self.check()

    def test_sharded_files(self):
        import torch

        if tuple(int(n) for n in torch.__version__.split(".")[:2]) < (2, 2):
            self.skipTest("torch.distributed.checkpoint of torch 2.2 or newer")
        self.check("--dcp")


if __name__ == "__main__":
    unittest.main()
