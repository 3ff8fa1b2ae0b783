"""Two gloo ranks, each with a helper that left its process group. Argument: what they do."""
import os
import signal
import subprocess
import sys
import time

import torch
import torch.distributed as dist

what, where = sys.argv[1], sys.argv[2]
helper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
for pid in (os.getpid(), helper.pid):
    with open(f"{where}/pid-{pid}", "w") as f:
        f.write(str(pid))
if what == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
if total.item() != 2:
    sys.exit(9)
if what == "fails once" and dist.get_rank() == 1 and os.environ["VIGIL_ATTEMPT"] == "0":
    raise ValueError("rank 1 fails")
if what in ("deaf", "waits"):
    open(f"{where}/ready-{dist.get_rank()}", "w").close()
    time.sleep(1000)
dist.barrier()
