#!/usr/bin/env bash
# Installs what the tests talk to for real, where this machine allows it: root
# on Debian. A part is a line: the file that shows that it is there, its
# package, and what it is for. What cannot be installed is skipped by the tests,
# or fails them where VIGIL_REQUIRE asks for it.
set -euo pipefail

parts() {
	cat <<'PARTS'
/usr/bin/python3 python3 scores of labelled traces
/usr/bin/prometheus prometheus sends alerts to Vigil
/usr/bin/amtool prometheus-alertmanager the peer whose semantics Vigil has
/usr/share/doc/postgresql/copyright postgresql the records of control planes that share them
/usr/lib/python3/dist-packages/numpy python3-numpy the Python SDK's tests
/usr/lib/python3/dist-packages/torch python3-torch the Python SDK's tests with PyTorch
/usr/sbin/slurmctld slurmctld training commands under srun
/usr/sbin/slurmd slurmd training commands under srun
/usr/bin/srun slurm-client training commands under srun
/usr/sbin/munged munge training commands under srun
/usr/bin/mpirun openmpi-bin training commands under mpirun
/usr/bin/victoria-metrics victoria-metrics a peer in make bench-ingest
PARTS
}

# Not Debian's: an S3 server, which the store of checkpoints is tested against.
versitygw=github.com/versity/versitygw/cmd/versitygw@v1.8.0
if ! command -v versitygw >/dev/null && [ -w /usr/local/bin ] && command -v go >/dev/null; then
	echo "vigil: building versitygw (once; some minutes)"
	GOFLAGS= GOBIN=/usr/local/bin go install "$versitygw" >/dev/null 2>&1 || echo "vigil: could not build versitygw"
fi

missing=()
while read -r file package purpose; do
	[ -e "$file" ] || command -v "$(basename "$file")" >/dev/null || missing+=("$package")
done < <(parts)
[ ${#missing[@]} -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
	echo "vigil: not installed, and this machine does not let me: ${missing[*]}"
	exit 0
fi
echo "vigil: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Services that packages would start belong to the tests, not to the machine.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
	trap 'rm -f "$policy"' EXIT
fi
install() { apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>"$log"; }
log=$(mktemp)
install || { apt-get update -qq >/dev/null 2>&1 || true; install; } || { echo "vigil: could not install ${missing[*]}:"; tail -5 "$log"; }
rm -f "$log"
