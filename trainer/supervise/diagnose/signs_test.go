package diagnose

import (
	"strings"
	"testing"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	nonfinite  = commonv1.FailureKind_FAILURE_KIND_NONFINITE
	divergence = commonv1.FailureKind_FAILURE_KIND_DIVERGENCE
	hang       = commonv1.FailureKind_FAILURE_KIND_HANG
	hostOOM    = commonv1.FailureKind_FAILURE_KIND_HOST_OOM
	gpuOOM     = commonv1.FailureKind_FAILURE_KIND_GPU_OOM
	gpuFault   = commonv1.FailureKind_FAILURE_KIND_GPU_FAULT
	network    = commonv1.FailureKind_FAILURE_KIND_NETWORK
	preempted  = commonv1.FailureKind_FAILURE_KIND_PREEMPTED
	nodeLost   = commonv1.FailureKind_FAILURE_KIND_NODE_LOST
	diskFull   = commonv1.FailureKind_FAILURE_KIND_DISK_FULL
	corrupt    = commonv1.FailureKind_FAILURE_KIND_CHECKPOINT_CORRUPT
	data       = commonv1.FailureKind_FAILURE_KIND_DATA
	limit      = commonv1.FailureKind_FAILURE_KIND_LIMIT
	userError  = commonv1.FailureKind_FAILURE_KIND_USER_ERROR
	killed     = commonv1.FailureKind_FAILURE_KIND_KILLED
	crash      = commonv1.FailureKind_FAILURE_KIND_CRASH
)

// examples is lines as programs print them, and what they mean. The first of a
// kind that a sign is for keeps that sign honest: TestEverySignIsMet.
func examples() []struct {
	kind commonv1.FailureKind
	line string
} {
	return []struct {
		kind commonv1.FailureKind
		line string
	}{
		// Schedulers.
		{limit, `slurmstepd: error: *** JOB 4215 ON gpu-07 CANCELLED AT 2026-03-01T02:03:04 DUE TO TIME LIMIT ***`},
		{preempted, `slurmstepd: error: *** JOB 4216 ON gpu-07 CANCELLED AT 2026-03-01T02:03:04 DUE TO PREEMPTION ***`},
		{preempted, `slurmstepd: error: *** STEP 4217.0 ON gpu-07 CANCELLED AT 2026-03-01T02:03:04 ***`},
		{nodeLost, `slurmstepd: error: *** JOB 4218 ON gpu-07 CANCELLED AT 2026-03-01T02:03:04 DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***`},
		{nodeLost, `srun: error: Node failure on gpu-07`},
		{nodeLost, `ORTE has lost communication with a remote daemon.`},
		{nodeLost, `ray.exceptions.ActorDiedError: The actor died because its node has died. Node Id: 3f2a The node was either terminated or crashed`},
		// GPU memory.
		{gpuOOM, `torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.08 GiB is free.`},
		{gpuOOM, `[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 3 has a total capacity of 23.64 GiB`},
		{gpuOOM, `RuntimeError: CUDA out of memory. Tried to allocate 192.00 MiB (GPU 0; 10.76 GiB total capacity; 9.57 GiB already allocated)`},
		{gpuOOM, `RuntimeError: CUDA error: out of memory`},
		{gpuOOM, `torch.OutOfMemoryError: HIP out of memory. Tried to allocate 512.00 MiB.`},
		{gpuOOM, `torch.cuda.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB`},
		{gpuOOM, `RuntimeError: HIP out of memory. Tried to allocate 2.00 GiB`},
		{gpuOOM, `jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.`},
		{gpuOOM, `tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM when allocating tensor with shape[256,1024,1024]`},
		{gpuOOM, `RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ` + "`cublasCreate(handle)`"},
		// Host memory.
		{hostOOM, `slurmstepd: error: Detected 1 oom-kill event(s) in StepId=4219.batch. Some of your processes may have been killed by the cgroup out-of-memory handler.`},
		{hostOOM, `[12345.678901] Out of memory: Killed process 4242 (python) total-vm:123456789kB, anon-rss:98765432kB`},
		{hostOOM, `Memory cgroup out of memory: Killed process 1523 (python3) total-vm:41220836kB`},
		{hostOOM, `RuntimeError: DataLoader worker (pid 23413) is killed by signal: Killed.`},
		{hostOOM, `RuntimeError: DataLoader worker (pid(s) 77, 78) exited unexpectedly`},
		{hostOOM, `ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).`},
		{hostOOM, `RuntimeError: unable to write to file </torch_2291_1342345>`},
		{hostOOM, `OSError: [Errno 12] Cannot allocate memory`},
		{hostOOM, `terminate called after throwing an instance of 'std::bad_alloc'`},
		{hostOOM, `RuntimeError: [enforce fail at alloc_cpu.cpp:75] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 17179869184 bytes.`},
		{hostOOM, `numpy.core._exceptions._ArrayMemoryError: Unable to allocate 12.0 GiB for an array with shape (1610612736,)`},
		{hostOOM, `MemoryError`},
		{hostOOM, `[rank1]: MemoryError: `},
		// Disk.
		{diskFull, `OSError: [Errno 28] No space left on device: '/ckpt/step-1000/optim.pt'`},
		{diskFull, `RuntimeError: [enforce fail at inline_container.cc:595] . unexpected pos 1024 vs 918`},
		{diskFull, `OSError: [Errno 122] Disk quota exceeded: '/home/u/ckpt/model.pt'`},
		{diskFull, `sqlite3.OperationalError: database or disk is full`},
		{diskFull, `RuntimeError: PytorchStreamWriter failed writing file data/12: file write failed`},
		// Checkpoints.
		{corrupt, `RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory`},
		{corrupt, `safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge`},
		{corrupt, `RuntimeError: unexpected EOF, expected 1234 more bytes. The file might be corrupted.`},
		{corrupt, `_pickle.UnpicklingError: invalid load key, 'v'.`},
		{corrupt, `EOFError: pickle data was truncated`},
		{corrupt, `read training state: its digest does not agree with its 264754 bytes; checkpoint 7 is damaged`},
		// Data.
		{data, `PIL.UnidentifiedImageError: cannot identify image file <_io.BytesIO object at 0x7f>`},
		{data, `OSError: image file is truncated (12 bytes not processed)`},
		{data, `tensorflow.python.framework.errors_impl.DataLossError: corrupted record at 12345 [Op:IteratorGetNext]`},
		{data, `zlib.error: Error -3 while decompressing data: invalid stored block lengths`},
		{data, `json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)`},
		{data, `UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte`},
		{data, `pyarrow.lib.ArrowInvalid: Parquet magic bytes not found in footer.`},
		{data, `IndexError: index out of range in self`},
		{data, `IndexError: Target 1000 is out of bounds.`},
		{data, `FileNotFoundError: [Errno 2] No such file or directory: '/data/shard-00017.tar'`},
		// Values.
		{nonfinite, `AssertionError: Rank 3: found NaN in local forward loss calculation. Device: 3, node: gpu-07`},
		{nonfinite, `RuntimeError: Rank 12, node gpu-1, device 4, iteration 4711: found NaN in local grad norm for bucket #0 in backward pass before data-parallel communication collective.`},
		{nonfinite, `RuntimeError: Function 'SoftmaxBackward0' returned nan values in its 0th output.`},
		{nonfinite, `FloatingPointError: invalid value (nan) encountered in mul`},
		{nonfinite, `ValueError: The loss returned in ` + "`training_step`" + ` is invalid: loss is nan`},
		{nonfinite, `FloatingPointError: Minimum loss scale reached (0.0001). Your loss is probably exploding.`},
		{nonfinite, `Exception: Current loss scale already at minimum - cannot decrease scale anymore. Exiting run.`},
		{divergence, `ValueError: training has diverged: loss 41.2 after 2.1`},
		{divergence, `RuntimeError: stopping because of a loss spike that does not recover`},
		// Devices.
		{gpuFault, `RuntimeError: CUDA error: uncorrectable ECC error encountered`},
		{gpuFault, `Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost.  Reboot the system to recover this GPU`},
		{gpuFault, `[1234.5] NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.`},
		{gpuFault, `NVRM: Xid (PCI:0000:3b:00): 48, pid=1234, DBE (double bit error)`},
		{gpuFault, `RuntimeError: CUDA error: unspecified launch failure`},
		{gpuFault, `RuntimeError: No CUDA GPUs are available`},
		{gpuFault, `RuntimeError: CUDA error: an illegal memory access was encountered`},
		{gpuFault, `RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED`},
		{gpuFault, `RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm`},
		{crash, `RuntimeError: CUDA error: device-side assert triggered`},
		// Hangs and the network.
		{hang, `[nvrx] Did not get subsequent heartbeat. Waited 2700.00 seconds.`},
		{hang, `[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=123, OpType=ALLREDUCE, NumelIn=1, Timeout(ms)=600000) ran for 600029 milliseconds before timing out.`},
		{network, `node1:512:540 [0] NET/IB : Got completion from peer 10.0.0.7<45678> with error 12, opcode 0, len 0, vendor err 129`},
		{network, `torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1691, remote process exited or there was a network error, NCCL version 2.20.5`},
		{network, `ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.`},
		{network, `torch.distributed.elastic.rendezvous.api.RendezvousConnectionError: The connection to the C10d store has failed. See inner exception for details.`},
		{network, `torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 3/4 clients joined.`},
		{network, `RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.7]:43210`},
		{network, `RuntimeError: [1] is setting up NCCL communicator and retrieving ncclUniqueId: Connection reset by peer`},
		{network, `socket.gaierror: [Errno -2] Name or service not known`},
		{network, `RuntimeError: The server socket has failed to listen on any local network address. port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use`},
		{network, `ConnectionRefusedError: [Errno 111] Connection refused`},
	}
}

// innocent is lines that look like failures to a careless reader.
func innocent() []string {
	return []string{
		`step 100/2000  loss 2.1034  lr 0.001`,
		`INFO: saving checkpoint to /ckpt/step-1000`,
		`UserWarning: NaN or Inf found in input tensor.`, // tensorboard, of any value
		`loss is 2.31`, `val loss is improving`,
		`NCCL INFO Using network IB`, `NCCL version 2.20.5+cuda12.4`,
		`Using 8 GPUs; memory: 79 GiB`, `memory: out of 80 GiB 12 are free`,
		`resuming from checkpoint /ckpt/step-1000`,
		`loss spike detector is on`,
		`retries=3 on RESOURCE_EXHAUSTED: quota of requests`,
		`DataLoader workers: 8`, `100%|##########| 10/10 [00:01<00:00]`,
		`mlx5_0 is up`, `the class MemoryErrorHandler is registered`,
	}
}

func TestSigns(t *testing.T) {
	for _, example := range examples() {
		r := NewReader()
		_, _ = r.Write([]byte("starting\n" + example.line + "\nbye\n"))
		found, _ := r.Found()
		if len(found) != 1 || found[0].Sign.Kind != example.kind || found[0].Line != 2 {
			t.Errorf("%q means %v, want %v", example.line, found, example.kind)
		}
	}
	for _, line := range innocent() {
		r := NewReader()
		_, _ = r.Write([]byte(line + "\n"))
		if found, _ := r.Found(); len(found) != 0 {
			t.Errorf("%q means %v, want nothing", line, found)
		}
	}
}

// A sign that no example meets may as well not work.
func TestEverySignIsMet(t *testing.T) {
	met := map[string]bool{}
	for _, example := range examples() {
		r := NewReader()
		_, _ = r.Write([]byte(example.line + "\n"))
		found, _ := r.Found()
		for _, m := range found {
			met[m.Sign.Says] = true
		}
	}
	for _, s := range Signs() {
		if !met[s.Says] {
			t.Errorf("no example meets the sign %q", s.Says)
		}
	}
}

func TestReaderTakesOutputInAnyPieces(t *testing.T) {
	line := "RuntimeError: CUDA out of memory. Tried to allocate 2 GiB\n"
	for size := 1; size < len(line); size += 7 {
		r := NewReader()
		for rest := line; rest != ""; {
			n := min(size, len(rest))
			_, _ = r.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		if found, _ := r.Found(); len(found) != 1 || found[0].Line != 1 {
			t.Errorf("in pieces of %d: %v", size, found)
		}
	}
}

func TestReaderIsBounded(t *testing.T) {
	r := NewReader()
	for range 1000 {
		_, _ = r.Write([]byte(strings.Repeat("x", 1<<16)))
		_, _ = r.Write([]byte("\nNo space left on device\nCUDA out of memory\n"))
	}
	found, _ := r.Found()
	if len(found) != 4 || len(r.tail) > 3*tailBytes || cap(r.partial) > 2*maxLine {
		t.Errorf("%d matches, tail of %d bytes, line of %d", len(found), len(r.tail), cap(r.partial))
	}
}
