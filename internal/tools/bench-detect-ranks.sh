#!/bin/bash
# Runs the detection rules over blind copies of labelled multi-rank traces and
# prints score_ranks.py's table.
#
# usage: bench-detect-ranks.sh AGENTCTL TRACES_DIR [sensitivity]
# TRACES_DIR has ranks/ with traces/, score_ranks.py and blind_ranks.py. With
# "sensitivity", every setting that has to do with ranks is moved by 20 % either
# way instead.
set -euo pipefail
agentctl=$1 dir=$2/ranks mode=${3:-table} python=${PYTHON:-python3}
if [ ! -f "$dir/score_ranks.py" ] || [ ! -d "$dir/traces" ]; then
	echo "vigil: $dir has no score_ranks.py and traces/: the labelled traces are not part of the project." >&2
	echo "       Name their directory: make bench-detect-ranks TRACES=/path/to/detection" >&2
	exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" "$dir/blind_ranks.py" "$dir/traces" "$work/blind"

# detect [FLAGS...] runs the rules and writes what they find to $work/found.
detect() {
	"$agentctl" detect replay --format jsonl "$@" "$work/blind" >"$work/blindly"
	"$python" "$dir/blind_ranks.py" --join "$work/blind.map.json" "$work/blindly" >"$work/found"
}

detect
if [ "$mode" = table ]; then
	"$python" "$dir/score_ranks.py" "$dir/traces" "$work/found" --per-trace
	exit 0
fi

line='import json,sys
o=json.load(sys.stdin)
k=o["kinds"]
print("%-32s recall %3.0f%%  right %3.0f%%  findings %.2f  FA %.1f  healthy any %2.0f%%  delays %s" % (
 sys.argv[1],100*o["macro_recall"],100*o["blame_right"],o["findings_mean"],o["fa_per_10k_steps"],100*o["healthy_any"],
 " ".join("%s %.3g" % (a,v["d50"]) for a,v in k.items())))'
score() { "$python" "$dir/score_ranks.py" "$dir/traces" "$work/found" --json | "$python" -c "$line" "$1"; }
score "as it is"
"$agentctl" detect settings | "$python" -c '
import sys
path = []
for text in sys.stdin:
    depth = (len(text) - len(text.lstrip())) // 4
    key, _, value = text.strip().partition(":")
    path = path[:depth] + [key]
    name = ".".join(path)
    if value.strip() and (".ranks." in name or "rank_" in name or name.startswith("hang.apart") or name in ("leak.slower", "hang.window", "hang.warmup")):
        print(name, value.strip())' >"$work/settings"
while read -r key value; do
	for factor in 0.8 1.2; do
		"$python" - "$key" "$value" "$factor" >"$work/rules.yaml" <<-'END'
			import sys
			key, value, factor = sys.argv[1], sys.argv[2], float(sys.argv[3])
			moved = float(value) * factor
			if key == "leak.slower":
			    moved = 1 + (float(value) - 1) * factor  # a ratio: what is over 1 is moved
			if key.endswith((".rows", ".warmup", ".window", "_block")):
			    moved = round(moved)
			for depth, part in enumerate(key.split(".")):
			    print("  " * depth + part + ":", end="\n" if depth < key.count(".") else " %.9g\n" % moved)
		END
		detect --rules "$work/rules.yaml"
		score "$key x$factor"
	done
done <"$work/settings"
