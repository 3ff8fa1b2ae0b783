package diagnose

import commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"

func deviceSigns() []Sign {
	const gpu, crash = commonv1.FailureKind_FAILURE_KIND_GPU_FAULT, commonv1.FailureKind_FAILURE_KIND_CRASH
	return []Sign{
		{gpu, Cause, "uncorrectable ECC error of a GPU", []string{"uncorrectable ECC error", "cudaErrorECCUncorrectable", "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable NVLink error"}, ""},
		{gpu, Cause, "a GPU is lost", []string{"GPU is lost", "fallen off the bus", "Unable to determine the device handle"}, ""},
		{gpu, Cause, "an XID of the driver", []string{"NVRM: Xid"}, ""},
		{gpu, Cause, "a hardware error of a GPU", []string{"hardware stack error", "cudaErrorHardwareStackError", "cudaErrorLaunchFailure", "unspecified launch failure", "illegal instruction was encountered", "HSA_STATUS_ERROR", "HW Exception by GPU node"}, ""},
		{gpu, Likely, "no GPU can be used", []string{"no CUDA-capable device is detected", "CUDA-capable device(s) is/are busy or unavailable", "CUDA driver initialization failed", "system not yet initialized", "cudaErrorSystemNotReady", "No CUDA GPUs are available", "CUDA error: unknown error"}, ""},
		{crash, Cause, "a kernel's assertion failed: an index is out of range", []string{"device-side assert triggered", "cudaErrorAssert"}, ""},
		{gpu, Likely, "an illegal access in a kernel", []string{"an illegal memory access was encountered", "cudaErrorIllegalAddress", "misaligned address", "CUDA_ERROR_ILLEGAL_ADDRESS"}, ""},
		{gpu, Likely, "a cuDNN or cuBLAS call failed", []string{"CUDNN_STATUS_", "CUBLAS_STATUS_", "cuDNN error", "CUSOLVER_STATUS_", "CUFFT_INTERNAL_ERROR"}, `CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR|NOT_INITIALIZED)|CUBLAS_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|NOT_INITIALIZED)|cuDNN error: |CUSOLVER_STATUS_INTERNAL_ERROR|CUFFT_INTERNAL_ERROR`},
	}
}

func hangSigns() []Sign {
	const hang = commonv1.FailureKind_FAILURE_KIND_HANG
	return []Sign{
		{hang, Likely, "a rank's heartbeat stopped", []string{"Did not get subsequent heartbeat", "Did not get initial heartbeat", "Heartbeat monitor timed out", "watchdog got stuck", "Hang detected"}, ""},
		{hang, Symptom, "a collective operation timed out: a rank stands still or is gone", []string{
			"caught collective operation timeout", "Timed out waiting", "monitoredBarrier", "has been stuck for",
		}, `caught collective operation timeout|Timed out waiting \d+ms for (recv|send) operation|monitoredBarrier|has been stuck for`},
	}
}

func networkSigns() []Sign {
	const network = commonv1.FailureKind_FAILURE_KIND_NETWORK
	return []Sign{
		{network, Likely, "an InfiniBand operation failed", []string{"NET/IB", "ibv_", "IBV_WC_", "UCX  ERROR", "mlx5_"}, `Got completion .*with (error|status)|ibv_\w+ failed|IBV_WC_\w+_ERR|UCX  ERROR|Got async event`},
		{network, Symptom, "an NCCL call failed", []string{"ncclSystemError", "ncclInternalError", "ncclRemoteError", "ncclUnhandledCudaError", "NCCL error", "NCCL WARN", "RCCL error", "ncclInvalidUsage"}, `nccl(System|Internal|Remote|UnhandledCuda)Error|ncclInvalidUsage|[NR]CCL error|NCCL WARN .*(fail|error|Call to|closed|timed? ?out|NET)`},
		{network, Symptom, "ranks did not meet", []string{"RendezvousConnectionError", "RendezvousTimeoutError", "RendezvousClosedError", "DistStoreError", "client socket has timed out", "client socket has failed", "connectFullMesh failed", "TCPStore", "Gloo"}, `Rendezvous(Connection|Timeout|Closed)Error|DistStoreError|client socket has (timed out|failed)|connectFullMesh failed|(TCPStore|Gloo).*(failed|timeout|timed out|reset|refused)`},
		{network, Symptom, "a connection broke", []string{"Connection reset by peer", "Connection closed by peer", "Connection closed by remote peer", "No route to host", "Network is unreachable", "Socket Timeout", "Transport endpoint is not connected"}, ""},
		{network, Symptom, "a name could not be resolved", []string{"Name or service not known", "Temporary failure in name resolution", "Could not resolve host"}, ""},
		{network, Symptom, "a port is taken", []string{"Address already in use", "EADDRINUSE"}, ""},
		{network, Symptom, "nobody listens there", []string{"Connection refused"}, ""},
	}
}
