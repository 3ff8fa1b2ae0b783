#!/bin/bash
# Checks the agent on a machine with NVIDIA GPUs, in under two minutes, and
# needs nothing there but the driver, nvidia-smi, python3 and curl: no compiler,
# no network. With PyTorch there the GPUs work meanwhile.
#
# usage: gpu-check.sh OUT AGENT TAPE_TEST
#   OUT        a folder for what comes of it:
#     report.txt      what to read: facts, the series, RSS and CPU, and every
#                     figure beside nvidia-smi's
#     tape.jsonl      what NVML answered, without serial numbers and UUIDs, for
#                     agent/collect/nvml/tape/testdata
#     scan.json, metrics.txt, nvidia-smi.csv, record.log, agent.log
#   AGENT      vigil-agent, built with cgo for this machine's processor
#   TAPE_TEST  go test -c ./agent/collect/nvml/tape
# GPU_CHECK_GPU=simulated=1xH100 tries the script where there is no GPU.
set -uo pipefail
out=$1 agent=$2 recorder=$3 gpu=${GPU_CHECK_GPU:-driver} port=${GPU_CHECK_PORT:-19464}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
state=$(mktemp -d) load= daemon=
trap 'kill $load $daemon 2>/dev/null; rm -rf "$state"' EXIT
say() { echo "$*" | tee -a "$out/report.txt"; }
: >"$out/report.txt"

# The driver's libraries may lie where the loader does not look.
if ! ldconfig -p 2>/dev/null | grep -q libnvidia-ml.so.1; then
	found=$(find /usr /opt -name libnvidia-ml.so.1 2>/dev/null | head -1)
	[ -z "$found" ] || { export LD_LIBRARY_PATH=$(dirname "$found"):${LD_LIBRARY_PATH:-}; say "library: $found is outside the loader's path"; }
fi
PATH=$PATH:/usr/local/nvidia/bin

say "== machine"
say "kernel $(uname -r), $(ldd --version 2>&1 | head -1), $(nproc) CPUs"
say "agent $("$agent" --version)"
if command -v nvidia-smi >/dev/null; then
	say "$(nvidia-smi --query-gpu=index,name,driver_version,vbios_version,mig.mode.current --format=csv 2>&1)"
	say "$(nvidia-smi nvlink --status 2>&1 | sed 's/ (UUID.*//' | head -24)"
fi

# Work for the GPUs, for a hundred seconds.
python3 - >"$state/load.log" 2>&1 <<'PY' &
import time, torch
a = [torch.randn(8192, 8192, device=f"cuda:{i}", dtype=torch.bfloat16) for i in range(torch.cuda.device_count())]
kept = [torch.empty(8 << 30, dtype=torch.uint8, device=x.device) for x in a]
end = time.time() + 110
print("working", flush=True)
while time.time() < end:
    for x in a:
        for _ in range(20):
            x @ x
    for x in a:
        torch.cuda.synchronize(x.device)
PY
load=$!
for _ in $(seq 60); do grep -q working "$state/load.log" && break; kill -0 $load 2>/dev/null || break; sleep 0.5; done
say "load: $(tail -1 "$state/load.log")"

say "== vigil-agent scan"
timeout 30 "$agent" scan --gpu "$gpu" --format json >"$out/scan.json" 2>&1
say "exit code $?"
timeout 30 "$agent" scan --gpu "$gpu" 2>&1 | tee -a "$out/report.txt"

say "== recording NVML"
timeout 60 "$recorder" -test.run '^TestRecord$' -test.v -record "$out/tape.jsonl" -gpu "$gpu" >"$out/record.log" 2>&1
say "exit code $?, $(wc -c <"$out/tape.jsonl") bytes, $(grep -c . "$out/tape.jsonl") answers; $(grep -o 'asked .*' "$out/record.log")"

say "== a minute at one second"
cat >"$state/agent.yaml" <<YAML
node: gpu-check
state_dir: $state/state
listen: 127.0.0.1:$port
gpu: $gpu
uplink: {address: 127.0.0.1:9}
collectors: {host: {interval: 1s}, cgroup: {interval: 1s}, process: {interval: 1s}, fabric: {interval: 1s}, nvml: {interval: 1s}, tasks: {interval: 10s}}
YAML
"$agent" --config "$state/agent.yaml" >"$out/agent.log" 2>&1 &
daemon=$!
python3 "$here/gpu-check.py" $daemon $port "$out" | tee -a "$out/report.txt"
say "series"
grep '^vigil_gpu' "$out/metrics.txt" | tail -n +1 >>"$out/report.txt"
say "vigil_gpu series: $(grep -c '^vigil_gpu' "$out/metrics.txt"), of $(grep -c '^vigil_' "$out/metrics.txt") in all"

say "== the helper is killed"
helper=$(pgrep -P $daemon | head -1)
kill -9 "$helper"
for second in $(seq 20); do
	sleep 1
	again=$(pgrep -P $daemon | head -1)
	[ -n "$again" ] && [ "$again" != "$helper" ] && curl -s "127.0.0.1:$port/metrics" | grep -q '^vigil_agent_collector_up{collector="nvml",status="ok"} 1' && break
done
say "GPUs are measured again after $second s"
say "done in $SECONDS s"
sed -i -E 's/(GPU|MIG)-[0-9a-f]{8}-[0-9a-f-]{27}/\1-0/g' "$out"/*
