"""A checkpoint's files, written over memory that is there already."""

import io
import os
import signal
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
import uuid
import zipfile

import house

try:
    import torch
except ImportError:
    torch = None

import vigil
from vigil import _scratch

MIB = 1 << 20


class Files(unittest.TestCase):
    def setUp(self):
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.files, self.spare = os.path.join(home.name, "files"), os.path.join(home.name, "spare")
        os.makedirs(os.path.join(self.files, "below"))
        os.mkdir(self.spare)
        self.sizes = _scratch.Sizes()

    def offer(self, **sizes):
        """Puts spare files beside, and gives each one's inode."""
        for name, size in sizes.items():
            with open(os.path.join(self.spare, name), "wb") as f:
                f.write(b"old " * (size // 4))
        return {name: os.stat(os.path.join(self.spare, name)).st_ino for name in sizes}

    def write(self, size, name="w", step=b"new weights "):
        path = os.path.join(self.files, name)
        content = (step * (size // len(step) + 1))[:size]
        with vigil.create_file(path) as f:
            view = memoryview(content)
            for at in range(0, size, 300_001):
                f.write(view[at:at + 300_001])
        with open(path, "rb") as f:
            self.assertTrue(f.read() == content, "other bytes than were written")
        return os.stat(path).st_ino

    def test_what_fits_is_taken(self):
        cases = (  # offered, size, what the last one had, taken, left
            ({}, 2 * MIB, 0, "", ""),
            (dict(a=8 * MIB, b=3 * MIB, c=MIB), 2 * MIB, 2 * MIB, "b", "a c"),
            (dict(a=8 * MIB, b=3 * MIB, c=MIB), 2 * MIB, 0, "a", "b c"),
            (dict(a=2 * MIB, b=MIB), 4 * MIB, 4 * MIB, "a", "b"),
            (dict(a=2 * MIB), 1000, 0, "", "a"),
            (dict(a=4 * MIB), MIB, MIB, "a", ""),
        )
        for offered, size, last, taken, left in cases:
            with self.subTest(offered=offered, size=size, last=last):
                inodes = self.offer(**offered)
                with _scratch.staging(self.files, self.sizes):
                    self.sizes.last = {"w": last}
                    inode = self.write(size)
                self.assertEqual([n for n, i in inodes.items() if i == inode], [taken] if taken else [])
                self.assertEqual(sorted(os.listdir(self.spare)), left.split())
                for name in left.split():
                    os.remove(os.path.join(self.spare, name))

    def test_files_keep_to_their_sizes(self):
        self.offer(a=2 * MIB, b=4 * MIB)
        with _scratch.staging(self.files, self.sizes):
            self.write(4 * MIB, "large")
            self.write(2 * MIB, os.path.join("below", "small"))
        for name, to in (("large", "0"), (os.path.join("below", "small"), "1")):
            os.rename(os.path.join(self.files, name), os.path.join(self.spare, to))
        inodes = {name: os.stat(os.path.join(self.spare, name)).st_ino for name in "01"}
        with _scratch.staging(self.files, self.sizes):  # the other first, this time
            self.assertEqual(self.write(2 * MIB, os.path.join("below", "small")), inodes["1"])
            self.assertEqual(self.write(4 * MIB, "large"), inodes["0"])
        self.assertEqual(os.listdir(self.spare), [])

    def test_elsewhere_nothing_is_taken(self):
        self.offer(a=2 * MIB)
        self.write(2 * MIB)
        with _scratch.staging(os.path.join(self.files, "below"), self.sizes):
            self.write(2 * MIB)
        self.assertEqual(os.listdir(self.spare), ["a"])

    def test_after_an_exception_there_is_no_file(self):
        self.offer(a=4 * MIB)
        with _scratch.staging(self.files, self.sizes):
            for size in (3 * MIB, 2 * MIB, 10):  # over a spare file, into a new one, not begun
                with self.assertRaises(ZeroDivisionError):
                    with vigil.create_file(os.path.join(self.files, "w")) as f:
                        f.write(bytes(size))
                        1 / 0
        self.assertEqual((os.listdir(self.files), os.listdir(self.spare)), (["below"], []))

    def test_what_a_dead_process_left_is_no_file(self):
        self.offer(a=4 * MIB)
        script = """
import os, signal, sys
from vigil import _scratch
with _scratch.staging(sys.argv[1], _scratch.Sizes()), _scratch.create(os.path.join(sys.argv[1], "w")) as f:
    f.write(bytes(3 << 20))
    f.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
        dead = subprocess.run([sys.executable, "-c", script, self.files], env=dict(os.environ, PYTHONPATH=house.PACKAGE))
        self.assertEqual((dead.returncode, os.listdir(self.files)), (-signal.SIGKILL, ["below"]))
        with _scratch.staging(self.files, self.sizes):
            self.write(2 * MIB)
        self.assertEqual(len(os.listdir(self.spare)), 1, "what the dead one took is taken again")

    def test_strange_spares_are_left_alone(self):
        os.symlink("/etc/passwd", os.path.join(self.spare, "link"))
        os.mkfifo(os.path.join(self.spare, "pipe"))
        os.mkdir(os.path.join(self.spare, "directory"))
        with _scratch.staging(self.files, self.sizes):
            self.write(2 * MIB)
        self.assertEqual(sorted(os.listdir(self.spare)), ["directory", "link", "pipe"])

    def test_it_is_written_from_the_beginning_on(self):
        path = os.path.join(self.files, "w")
        with vigil.create_file(path) as f:
            for wrong in (lambda: f.seek(0), f.tell, f.fileno, f.read):
                with self.assertRaises(io.UnsupportedOperation):
                    wrong()
            with zipfile.ZipFile(f, "w") as z:
                z.writestr("a", bytes(3 * MIB))
        with self.assertRaises(ValueError):
            f.write(b"late")
        with zipfile.ZipFile(path) as z:
            self.assertEqual(z.read("a"), bytes(3 * MIB))
        with vigil.create_file(path) as f:
            f.write(b"")
        self.assertEqual(os.path.getsize(path), 0)


@house.needs("torch")
class Estimates(unittest.TestCase):
    def of(self, *objects):
        from vigil import _estimate

        return _estimate.of(*objects)

    def trained(self, **options):
        model = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.BatchNorm1d(256), torch.nn.Linear(256, 256, bias=False))
        model[2].weight = model[0].weight  # written once
        optimizer = torch.optim.Adam(model.parameters(), **options)
        model(torch.randn(4, 256)).sum().backward()
        optimizer.step()
        return model, optimizer

    def test_it_is_what_is_written(self):
        for options in ({}, {"amsgrad": True}):
            for parts in (1, 2):
                with self.subTest(options=options, parts=parts):
                    objects = self.trained(**options)[:parts]
                    out = io.BytesIO()
                    torch.save([o.state_dict() for o in objects], out)
                    written = len(out.getvalue())
                    self.assertGreater(self.of(*objects), 0.9 * written)
                    self.assertLess(self.of(*objects), 1.1 * written)

    def test_what_it_is_given(self):
        model, optimizer = self.trained()
        both = self.of(model, optimizer)
        self.assertGreater(both, 2.9 * self.of(model))  # two moments
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        loader = vigil.torch.Loader(torch.utils.data.DataLoader(list(range(4))))
        self.assertEqual(self.of([model], [optimizer, scheduler], loader, object()), both)
        self.assertEqual(self.of(), 0)

    def test_what_cannot_be_told_is_nothing(self):
        model, optimizer = self.trained()

        class FullyShardedDataParallel(torch.nn.Module):
            pass

        model.add_module("3", FullyShardedDataParallel())
        self.assertEqual(self.of(optimizer, model), 0)
        self.assertEqual(self.of(torch.nn.LazyLinear(4)), 0)


@house.needs_house
@house.needs("torch")
class WithAgent(unittest.TestCase):
    def setUp(self):
        self.run_ = vigil.init("over-" + uuid.uuid4().hex[:8], socket=house.SOCKET, signals=False, connect_seconds=30)
        self.addCleanup(self.run_.finish)
        self.model = torch.nn.Linear(1024, 1024)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)

    def saved(self, save):
        """Saves four times, and gives of each whether it went to memory, how many
        files lay beside it, and whether it was written over one of them."""
        seen, write_state = [], vigil.torch.write_state

        def looked_at(place, *args, **options):
            spare = os.path.join(os.path.dirname(place), _scratch.SPARE)
            before = {e.inode() for e in os.scandir(spare)} if os.path.isdir(spare) else set()
            metadata = write_state(place, *args, **options)
            over = os.stat(os.path.join(place, vigil.torch.STATE_FILE)).st_ino in before
            seen.append((place.startswith("/dev/shm/"), len(before), over))
            return metadata

        with unittest.mock.patch.object(vigil.torch, "write_state", looked_at):
            for step in range(1, 5):
                self.model(torch.randn(8, 1024)).sum().backward()
                self.optimizer.step()
                self.run_.log(step, loss=0.5)
                self.assertIsNotNone(save())
                house.verified(self.run_.id, step)
        if not seen[-1][0]:
            self.skipTest("staging is not in memory here")
        return seen

    def own(self, place):
        return vigil.torch.write_state(place, {"model": self.model, "optimizer": self.optimizer}, self.run_.last_step)

    def test_each_checkpoint_is_written_over_the_one_before(self):
        # The first does not lie in memory, as nobody knew its size; the second is
        # the first that leaves something.
        self.assertEqual(self.saved(lambda: self.run_.checkpoint(self.own)),
                         [(False, 0, False), (True, 0, False), (True, 1, True), (True, 1, True)])
        other = torch.nn.Linear(1024, 1024)
        loaded = vigil.torch.load_checkpoint(other, torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9))
        self.assertEqual(loaded.step, 4)
        self.assertTrue(torch.equal(other.weight, self.model.weight))

    def test_the_first_one_too_goes_to_memory_when_its_size_is_known(self):
        want = [(True, 0, False), (True, 1, True), (True, 1, True), (True, 1, True)]
        self.assertEqual(self.saved(lambda: self.run_.checkpoint(self.own, size_bytes=9 << 20)), want)

    def test_save_checkpoint_tells_the_size(self):
        self.assertEqual(self.saved(lambda: vigil.torch.save_checkpoint(self.model, self.optimizer))[0], (True, 0, False))

    def test_watch_tells_the_size(self):
        watch = vigil.watch(self.model, self.optimizer)
        self.addCleanup(watch.remove)
        self.assertEqual(self.saved(watch.checkpoint)[0], (True, 0, False))

    def test_a_size_that_is_too_large_for_memory(self):
        self.assertFalse(self.saved(lambda: self.run_.checkpoint(self.own, size_bytes=1 << 60 if self.run_.last_step == 1 else 0))[0][0])


if __name__ == "__main__":
    unittest.main()
