#!/usr/bin/env bash
# Starts a control plane, connects simulated agents to it, kills it half-way and
# starts it again on the same state, and prints what agentctl bench fleet counts.
# With BENCH_BREAK=1 the agents break their connections instead. The agents send
# heartbeats and events; with BENCH_SYNC=interval frames are not synced to the disk
# before they are acknowledged.
# Usage: bench-fleet.sh BIN [AGENTS]
set -euo pipefail

bin=$1 agents=${2:-10000}
dir=$(mktemp -d)
trap 'kill "$(cat "$dir/pid")" 2>/dev/null || true; sleep 1; rm -rf "$dir"' EXIT
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port) api=$(free_port)
ulimit -n "$(ulimit -Hn)"
printf 'state_dir: %s/vigil\nagents: {listen: "127.0.0.1:%s"}\napi: {listen: "127.0.0.1:%s"}\nbus: {sync: %s}\nlog: {level: warn}\n' \
	"$dir" "$port" "$api" "${BENCH_SYNC:-always}" >"$dir/vigil.yaml"
cat >"$dir/start" <<END
if [ -e "$dir/pid" ]; then kill -9 "\$(cat "$dir/pid")"; fi
for _ in \$(seq 50); do # until its ports and its lock are free
	"$bin/vigil-controlplane" --config "$dir/vigil.yaml" </dev/null >>"$dir/vigil.log" 2>&1 &
	echo \$! >"$dir/pid"
	for _ in \$(seq 300); do
		if curl -fs -o /dev/null "http://127.0.0.1:$api/healthz"; then exit 0; fi
		if ! kill -0 "\$(cat "$dir/pid")" 2>/dev/null; then break; fi
		sleep 0.1
	done
done
exit 1
END
sh "$dir/start"
half=(--restart "sh $dir/start")
if [ -n "${BENCH_BREAK:-}" ]; then half=(--reconnect); fi
"$bin/agentctl" bench fleet --agents "$agents" --gpus 0 --reports "${BENCH_REPORTS:-10s}" --duration "${BENCH_DURATION:-60s}" "${half[@]}" \
	--agents-address "127.0.0.1:$port" --metrics-url "http://127.0.0.1:$api/metrics"
