"""A checkpoint's files, written over memory that is there already."""

import io
import os
import signal
import subprocess
import sys
import tempfile
import unittest
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


@house.needs_house
@house.needs("torch")
class WithAgent(unittest.TestCase):
    def test_each_checkpoint_is_written_over_the_one_before(self):
        run = vigil.init("over-" + uuid.uuid4().hex[:8], socket=house.SOCKET, signals=False, connect_seconds=30)
        self.addCleanup(run.finish)
        model = torch.nn.Linear(1024, 1024)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        seen = []

        def write(place):
            spare = os.path.join(os.path.dirname(place), _scratch.SPARE)
            before = {e.inode() for e in os.scandir(spare)} if os.path.isdir(spare) else set()
            metadata = vigil.torch.write_state(place, {"model": model, "optimizer": optimizer}, run.last_step)
            seen.append((place, os.stat(os.path.join(place, vigil.torch.STATE_FILE)).st_ino in before, len(before)))
            return metadata

        for step in range(1, 5):
            model(torch.randn(8, 1024)).sum().backward()
            optimizer.step()
            run.log(step, loss=0.5)
            self.assertIsNotNone(run.checkpoint(write))
            house.verified(run.id, step)
        if not seen[-1][0].startswith("/dev/shm/"):
            self.skipTest("staging is not in memory here: %s" % seen[-1][0])
        # The first does not lie in memory, as nobody knew its size; the second is
        # the first that leaves something.
        self.assertEqual([taken for _, taken, _ in seen], [False, False, True, True])
        self.assertEqual([offered for _, _, offered in seen], [0, 0, 1, 1])
        other = torch.nn.Linear(1024, 1024)
        loaded = vigil.torch.load_checkpoint(other, torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9))
        self.assertEqual(loaded.step, 4)
        self.assertTrue(torch.equal(other.weight, model.weight))


if __name__ == "__main__":
    unittest.main()
