package diagnose

import commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"

// Weight is how near to a cause a sign is.
type Weight int

// The weights. A symptom is what others' failures look like from here.
const (
	Symptom Weight = 1 + iota
	Likely
	Cause
)

// Sign is words that tell what went wrong.
type Sign struct {
	Kind   commonv1.FailureKind
	Weight Weight
	Says   string // what it means, in a few words
	// Any is words of which one must be in the line; with Pattern it only
	// spares the pattern's work. Empty: Pattern alone decides.
	Any     []string
	Pattern string // a regular expression; empty: the words are enough
}

// Signs is every sign that is known, the most telling first. Where two are in a
// line the first counts.
func Signs() []Sign {
	var all []Sign
	for _, part := range [][]Sign{
		schedulerSigns(), memorySigns(), diskSigns(), checkpointSigns(), dataSigns(), valueSigns(), deviceSigns(), hangSigns(), networkSigns(),
	} {
		all = append(all, part...)
	}
	return all
}

func schedulerSigns() []Sign {
	const preempted, limit, lost = commonv1.FailureKind_FAILURE_KIND_PREEMPTED, commonv1.FailureKind_FAILURE_KIND_LIMIT, commonv1.FailureKind_FAILURE_KIND_NODE_LOST
	return []Sign{
		{limit, Cause, "the job's time limit", []string{"DUE TO TIME LIMIT"}, ""},
		{preempted, Cause, "the scheduler preempted the job", []string{"DUE TO PREEMPTION"}, ""},
		{lost, Cause, "a node of the job failed", []string{"DUE TO NODE FAILURE", "Node failure on", "NODE_FAIL"}, ""},
		{lost, Cause, "a node of the job is gone", []string{"has lost communication with a remote daemon", "lost connection to node"}, ""},
		{lost, Likely, "a node of the job is gone", []string{"The node was either terminated or", "node it was running on has died", "Its node has died"}, ""},
		{preempted, Symptom, "the scheduler ended the job step", []string{"slurmstepd: error: ***"}, `\*\*\* (JOB|STEP) .*CANCELLED AT`},
	}
}

func memorySigns() []Sign {
	const gpu, host = commonv1.FailureKind_FAILURE_KIND_GPU_OOM, commonv1.FailureKind_FAILURE_KIND_HOST_OOM
	return []Sign{
		{host, Cause, "the control group's memory ran out", []string{"oom-kill event", "cgroup out-of-memory handler", "oom_kill event"}, ""},
		{host, Cause, "the kernel killed a process for want of memory", []string{"Out of memory: Kill", "Memory cgroup out of memory", "oom-kill:constraint="}, ""},
		{gpu, Cause, "CUDA out of memory", []string{"CUDA out of memory", "cuda.OutOfMemoryError", "torch.OutOfMemoryError", "CUDA error: out of memory", "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY"}, ""},
		{gpu, Cause, "HIP out of memory", []string{"HIP out of memory", "hipErrorOutOfMemory"}, ""},
		{gpu, Cause, "the accelerator's memory ran out", []string{"RESOURCE_EXHAUSTED", "OOM when allocating tensor", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"}, `RESOURCE_EXHAUSTED: .*([Oo]ut of memory|allocat)|OOM when|ALLOC_FAILED`},
		{host, Cause, "shared memory ran out (/dev/shm)", []string{"insufficient shared memory", "out of shared memory", "unable to write to file </torch_", "unable to mmap"}, ""},
		{host, Cause, "a data-loading process was killed, as the kernel does when memory runs out", []string{"DataLoader worker"}, `is killed by signal: Killed`},
		{host, Likely, "a data-loading process ended unexpectedly", []string{"DataLoader worker"}, `exited unexpectedly|is killed by signal`},
		{host, Cause, "host memory ran out", []string{"Cannot allocate memory", "std::bad_alloc", "DefaultCPUAllocator: ", "_ArrayMemoryError", "fatal error: runtime: out of memory", "java.lang.OutOfMemoryError"}, ""},
		{host, Cause, "host memory ran out", []string{"MemoryError"}, `^(\[?[a-z]*\d+\]?: ?)?MemoryError\b`},
	}
}

func diskSigns() []Sign {
	const disk = commonv1.FailureKind_FAILURE_KIND_DISK_FULL
	return []Sign{
		{disk, Cause, "no space left on device", []string{"No space left on device", "ENOSPC", "There is not enough space on the disk"}, ""},
		{disk, Cause, "the disk quota is used up", []string{"Disk quota exceeded", "EDQUOT"}, ""},
		{disk, Cause, "the disk is full", []string{"database or disk is full", "disk is full", "No usable temporary directory found"}, ""},
		{disk, Likely, "a checkpoint could not be written in full", []string{"PytorchStreamWriter failed writing file", "unexpected pos "}, ""},
	}
}

func checkpointSigns() []Sign {
	const corrupt = commonv1.FailureKind_FAILURE_KIND_CHECKPOINT_CORRUPT
	return []Sign{
		{corrupt, Cause, "a checkpoint file is damaged", []string{
			"PytorchStreamReader failed", "failed finding central directory", "invalid header or archive is corrupted",
			"The file might be corrupted", "Error while deserializing header", "SafetensorError", "HeaderTooLarge", "MetadataIncompleteBuffer",
		}, ""},
		{corrupt, Likely, "a checkpoint file is damaged", []string{"UnpicklingError", "pickle data was truncated", "invalid load key"}, ""},
		{corrupt, Cause, "a checkpoint is damaged", []string{"checkpoint", "Checkpoint"}, `(?i)checkpoint .*(is|seems|appears) (corrupt|damaged|incomplete)|CheckpointException|its digest does not agree`},
	}
}

func dataSigns() []Sign {
	const data = commonv1.FailureKind_FAILURE_KIND_DATA
	return []Sign{
		{data, Cause, "an image cannot be read", []string{"UnidentifiedImageError", "cannot identify image file", "image file is truncated", "broken data stream when reading image"}, ""},
		{data, Cause, "a record of the data is damaged", []string{"corrupted record at", "DataLossError", "Invalid TFRecord", "Corrupt snappy", "BadZipFile", "tarfile.ReadError", "BadGzipFile", "Error -3 while decompressing", "CRC check failed"}, ""},
		{data, Cause, "the data cannot be decoded", []string{"JSONDecodeError", "UnicodeDecodeError", "ArrowInvalid", "ParserError: Error tokenizing data", "DatasetGenerationError"}, ""},
		{data, Likely, "an index of the data is outside the vocabulary or the classes", []string{"index out of range in self", "is out of bounds.", "Assertion `t >= 0 && t < n_classes`", "srcIndex < srcSelectDimSize"}, `index out of range in self|Target -?\d+ is out of bounds|n_classes|srcSelectDimSize`},
		{data, Likely, "the data is not there", []string{"FileNotFoundError"}, `(?i)FileNotFoundError.*(data|shard|\.parquet|\.tfrecord|\.tar|\.jsonl|\.bin|\.idx)`},
	}
}

func valueSigns() []Sign {
	const value, diverged = commonv1.FailureKind_FAILURE_KIND_NONFINITE, commonv1.FailureKind_FAILURE_KIND_DIVERGENCE
	return []Sign{
		{value, Cause, "NaN in loss or gradient", []string{"found NaN in", "found Inf in", "found nan in", "returned nan values in its", "invalid value (nan) encountered", "NaN detected in", "Nan in loss", "Non-finite"}, ""},
		{value, Cause, "the loss is NaN", []string{"oss is", "nan values"}, `(?i)\bloss is (nan|inf|not finite|infinite)|Encountered nan values in tensors`},
		{value, Cause, "the loss scale is at its minimum", []string{"inimum loss scale", "loss scale already at minimum"}, ""},
		{diverged, Cause, "the loss left its course", []string{"raining has diverged", "loss diverged", "loss spike", "Loss spike", "LossSpike"}, `(?i)diverged|(killing|stopping|aborting|terminat\w+) .*loss spike|KillLossSpike`},
	}
}
