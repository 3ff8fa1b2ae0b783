"""Two ranks that train one model together; what test_ranks.py starts.

It saves with torch.distributed.checkpoint where --dcp is given.
"""

import hashlib
import sys
import time

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import vigil

STEPS = int(sys.argv[1])
PACE = float(sys.argv[2])
DCP = "--dcp" in sys.argv


def main():
    dist.init_process_group("gloo")
    torch.manual_seed(7)
    data = TensorDataset(torch.randn(120, 8), torch.randint(0, 2, (120,)))
    loader = vigil.torch.Loader(DataLoader(data, batch_size=4, sampler=DistributedSampler(data)))
    model = torch.nn.parallel.DistributedDataParallel(
        torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.3), torch.nn.Linear(16, 2)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run = vigil.init("ranks")
    parts = {"model": model, "optimizer": optimizer, "dataloader": loader}
    watch = vigil.watch(model, optimizer, dataloader=loader)
    loaded = vigil.torch.load_checkpoint(**parts)
    step = loaded.step if loaded is not None else 0
    print("begin at step %d" % step, flush=True)
    while step < STEPS:
        for x, y in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            step += 1
            run.log(step)
            if DCP and run.should_checkpoint:
                vigil.torch.save_checkpoint(**parts, step=step, dcp=True)
            watch.boundary()
            time.sleep(PACE)
            if step == STEPS:
                break
    h = hashlib.sha256()
    for p in model.parameters():
        h.update(p.detach().numpy().tobytes())
    print("parameters sha256 %s" % h.hexdigest(), flush=True)


main()
