#!/bin/bash
# Runs the detection rules over blind copies of labelled traces and prints
# score.py's table, beside those of the baselines where python3 has numpy.
#
# usage: bench-detect.sh AGENTCTL TRACES_DIR [sensitivity]
# TRACES_DIR has traces/, score.py, blind.py and baselines.py; RUNS names another
# folder of traces. With "sensitivity", every setting is moved by 20 % either way
# instead.
set -euo pipefail
agentctl=$1 dir=$2 mode=${3:-table} python=${PYTHON:-python3}
runs=${RUNS:-$dir/traces}
if [ ! -f "$dir/score.py" ] || [ ! -d "$runs" ]; then
	echo "vigil: $dir has no score.py and traces/: the labelled traces are not part of the project." >&2
	echo "       Name their directory: make bench-detect TRACES=/path/to/detection" >&2
	exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" "$dir/blind.py" "$runs" "$work/blind"

# score NAME [FLAGS...] runs the rules and writes NAME's scores as the flags of
# score.py say.
detect() {
	local out=$1; shift
	"$agentctl" detect replay --format jsonl "$@" "$work/blind" >"$work/found"
	"$python" "$dir/blind.py" --join "$work/blind.map.json" "$work/found" >"$out"
}

if [ "$mode" = table ]; then
	detect "$work/vigil.jsonl"
	echo "== vigil"
	"$python" "$dir/score.py" "$runs" "$work/vigil.jsonl"
	if ! "$python" -c 'import numpy' 2>/dev/null; then
		echo "vigil: the baselines are left out: $python has no numpy (set PYTHON to one that has)"
		exit 0
	fi
	"$python" "$dir/baselines.py" "$runs" "$work/baselines" 2>/dev/null || mkdir -p "$work/baselines"
	for found in "$work"/baselines/*.jsonl; do
		echo "== baseline $(basename "$found" .jsonl)"
		"$python" "$dir/score.py" "$runs" "$found"
	done
	exit 0
fi

line='import json,sys
o=json.load(sys.stdin)
k=o["kinds"]
print("%-34s recall %3.0f%%  worst %s %3.0f%%  critical FA %.2f  healthy any %2.0f%% critical %2.0f%%  precision %.2f  spike as div %2.0f%%" % (
 sys.argv[1],100*o["macro_strict"],*min(((a,100*v["strict"]) for a,v in k.items()),key=lambda x:x[1]),o["crit_fa_per_10k"],
 100*o["healthy_any"],100*o["healthy_crit"],o["precision"],100*o["spike_as_divergence"]))'
detect "$work/default.jsonl"
"$python" "$dir/score.py" "$runs" "$work/default.jsonl" --json | "$python" -c "$line" "as it is"
"$agentctl" detect settings | "$python" -c '
import sys
path = []
for text in sys.stdin:
    depth = (len(text) - len(text.lstrip())) // 4
    key, _, value = text.strip().partition(":")
    path = path[:depth] + [key]
    if value.strip() and path[0] != "nodes":
        print(".".join(path), value.strip())' >"$work/settings"
while read -r key value; do
	for factor in 0.8 1.2; do
		"$python" - "$key" "$value" "$factor" >"$work/rules.yaml" <<-'END'
			import sys
			key, value, factor = sys.argv[1], sys.argv[2], float(sys.argv[3])
			moved = float(value) * factor
			if key.endswith(("factor", "outlier", "drift", "creep", "falling", "near", "high", "blow_up")):
			    moved = 1 + (float(value) - 1) * factor  # a ratio: what is over 1 is moved
			if "." not in value and not key.endswith(("memory", "sigmas", "factor", "baseline", "longest", "medians", "least", "outlier", "high", "blow_up")):
			    moved = max(1, round(moved))
			for depth, part in enumerate(key.split(".")):
			    print("  " * depth + part + ":", end="\n" if depth < key.count(".") else " %g\n" % moved)
		END
		if ! detect "$work/moved.jsonl" --rules "$work/rules.yaml" 2>"$work/err"; then
			echo "$key x$factor: $(head -1 "$work/err")"; continue
		fi
		"$python" "$dir/score.py" "$runs" "$work/moved.jsonl" --json | "$python" -c "$line" "$key x$factor"
	done
done <"$work/settings"
