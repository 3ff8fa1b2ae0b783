#!/usr/bin/env bash
# Starts a control plane, connects simulated agents to it, breaks all their
# connections once, and prints what agentctl bench fleet counts. The agents send
# heartbeats and events; frames of events are synced each by itself unless
# BENCH_SYNC is "interval".
# Usage: bench-fleet.sh BIN [AGENTS]
set -euo pipefail

bin=$1 agents=${2:-10000}
dir=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port) api=$(free_port)
ulimit -n "$(ulimit -Hn)"
printf 'state_dir: %s/vigil\nagents: {listen: "127.0.0.1:%s"}\napi: {listen: "127.0.0.1:%s"}\nbus: {sync: %s}\nlog: {level: warn}\n' \
	"$dir" "$port" "$api" "${BENCH_SYNC:-always}" >"$dir/vigil.yaml"
"$bin/vigil-controlplane" --config "$dir/vigil.yaml" 2>"$dir/vigil.log" &
server=$!
for _ in $(seq 300); do
	if curl -fs -o /dev/null "http://127.0.0.1:$api/healthz"; then break; fi
	sleep 0.1
done
"$bin/agentctl" bench fleet --agents "$agents" --gpus 0 --reports "${BENCH_REPORTS:-10s}" --duration "${BENCH_DURATION:-60s}" --reconnect \
	--agents-address "127.0.0.1:$port" --metrics-url "http://127.0.0.1:$api/metrics"
