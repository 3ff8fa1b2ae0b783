#!/usr/bin/env bash
# Sends the same samples, by the agents' protocol to a control plane and by
# remote write to VictoriaMetrics and to Prometheus (Debian's packages), each by
# itself on this machine, and prints what each took of CPU and memory.
# Usage: bench-ingest.sh BIN [HOSTS] [STEPS]
set -euo pipefail

bin=$1 hosts=${2:-1000} steps=${3:-300}
dir=$(mktemp -d)
pids=()
stop() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
	pids=()
}
trap 'stop; rm -rf "$dir"' EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
ready() { # URL
	for _ in $(seq 300); do
		if curl -fs -o /dev/null "$1"; then return; fi
		sleep 0.1
	done
	echo "bench-ingest: $1 does not answer" >&2
	exit 1
}
ingest() { "$bin/agentctl" bench ingest --hosts "$hosts" --steps "$steps" "$@"; }

agents=$(free_port) api=$(free_port)
printf 'state_dir: %s/vigil\nagents: {listen: "127.0.0.1:%s"}\napi: {listen: "127.0.0.1:%s"}\nlog: {level: warn}\n' \
	"$dir" "$agents" "$api" >"$dir/vigil.yaml"
"$bin/vigil-controlplane" --config "$dir/vigil.yaml" 2>"$dir/vigil.log" &
pids+=($!)
ready "http://127.0.0.1:$api/healthz"
ingest --name vigil --agents-address "127.0.0.1:$agents" --pid "${pids[0]}"
[ -z "${BENCH_PROFILE:-}" ] || curl -fs "http://127.0.0.1:$api/metrics" >"$BENCH_PROFILE"
stop

if command -v victoria-metrics >/dev/null; then
	port=$(free_port)
	victoria-metrics -storageDataPath "$dir/vm" -httpListenAddr "127.0.0.1:$port" >"$dir/vm.log" 2>&1 &
	pids+=($!)
	ready "http://127.0.0.1:$port/health"
	ingest --name victoria-metrics --remote-write "http://127.0.0.1:$port/api/v1/write" --batch 10000 --pid "${pids[0]}"
	stop
else
	echo "victoria-metrics is not installed"
fi

if command -v prometheus >/dev/null; then
	port=$(free_port)
	echo 'global: {}' >"$dir/prometheus.yml"
	prometheus --config.file "$dir/prometheus.yml" --storage.tsdb.path "$dir/prometheus" --web.listen-address "127.0.0.1:$port" \
		--web.enable-remote-write-receiver >"$dir/prometheus.log" 2>&1 &
	pids+=($!)
	ready "http://127.0.0.1:$port/-/ready"
	# Prometheus takes no sample that is older than its newest of the series, and
	# several requests at once may overtake each other.
	ingest --name prometheus --remote-write "http://127.0.0.1:$port/api/v1/write" --batch 10000 --concurrency 1 --pid "${pids[0]}"
	stop
else
	echo "prometheus is not installed"
fi
