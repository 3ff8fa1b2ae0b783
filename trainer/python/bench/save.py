"""How long training stands still for a checkpoint of torch.save, as torch writes
it into a new file and as the SDK writes it over memory of the checkpoint before,
beside a copy of the same bytes into memory that is there, in one run; and for
the first two of a run, whose size the agent is told or not.
`make bench-save` starts the agent that it saves to."""

import os
import statistics
import sys
import time

import torch

import house
import vigil

SAVES = 5


class Nowhere:
    """Takes what is written and leaves it."""

    def write(self, data):
        return memoryview(data).nbytes

    def flush(self):
        pass


def first_ones(size, timed, write):
    """Prints how long the first two checkpoints of runs take."""
    times = {}
    for i in range(SAVES):
        for told in (0, size):
            run = vigil.init("bench-first-%d-%d" % (i, told), socket=house.SOCKET, signals=False, connect_seconds=30)
            for number in (1, 2):
                run.last_step = number
                times.setdefault((number, told), []).append(timed(lambda: run.checkpoint(write, size_bytes=told)))
                house.verified(run.id, number)
            run.finish()
    for (number, told), took in sorted(times.items()):
        print("checkpoint %d of a run, its size %-12s %8.1f ms" % (number, "told" if told else "not told", statistics.median(took) * 1e3), flush=True)


def main():
    size = int(os.environ.get("VIGIL_BENCH_MIB") or 256) << 20
    torch.set_num_threads(1)
    state = {"w%d" % i: torch.rand(size // 4 // 8) for i in range(8)}
    whole = torch.cat(list(state.values()))
    beside = whole.clone()  # its pages are there

    def timed(do):
        began = time.perf_counter()
        do()
        return time.perf_counter() - began

    print("Python %s, PyTorch %s, %d MiB, the median of %d:" % (sys.version.split()[0], torch.__version__, size >> 20, SAVES))
    first_ones(size, timed, lambda place: vigil.torch.save_object(state, os.path.join(place, "state.pt")))
    run = vigil.init("bench-save", socket=house.SOCKET, signals=False, connect_seconds=30)

    def saving(save):
        def write(place):
            save(state, os.path.join(place, "state.pt"))
            return {"step": run.last_step, "nonfinite_parameters": 0}
        return lambda: run.checkpoint(write)

    ways = (
        ("torch.save, which writes nowhere", lambda: torch.save(state, Nowhere()), 0),
        ("run.checkpoint, vigil.torch.save_object", saving(vigil.torch.save_object), 2),
        ("run.checkpoint, torch.save", saving(torch.save), 1),
    )
    found = {}
    for what, do, unlike in ways:  # the first ones find no memory, or leave it
        copies, times = [], []
        for i in range(unlike + SAVES):
            copy = timed(lambda: beside.copy_(whole))
            run.last_step += 1
            took = timed(do)
            if do is not ways[0][1]:
                house.verified(run.id, run.last_step)
            if i >= unlike:
                copies.append(copy)
                times.append(took)
        found[what] = statistics.median(times) / statistics.median(copies)
        print("%-42s %8.1f ms %8.2f copies" % (what, statistics.median(times) * 1e3, found[what]), flush=True)
    print("before : after = %.2f" % (found[ways[2][0]] / found[ways[1][0]]))


if __name__ == "__main__":
    main()
