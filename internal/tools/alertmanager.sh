#!/bin/sh
# Builds the present Alertmanager and its amtool from their Go module into
# .vigil/alertmanager-VERSION and prints that directory. The module is that of
# go.mod, whose templates Vigil uses. Its pages for browsers are not in it; a
# page that says so stands for them.
set -eu
cd "$(git rev-parse --show-toplevel)"
module=github.com/prometheus/alertmanager
version=$(go list -m -f '{{.Version}}' $module)
home=$PWD/.vigil/alertmanager-$version
if [ ! -x "$home/amtool" ]; then
	source=$(mktemp -d)
	trap 'chmod -R u+w "$source"; rm -rf "$source"' EXIT
	cp -R "$(go mod download -json $module@"$version" | sed -n 's/.*"Dir": "\(.*\)",*/\1/p')"/. "$source"
	chmod -R u+w "$source"
	mkdir -p "$source/ui/app/dist" "$home"
	echo 'This build has no pages.' >"$source/ui/app/dist/index.html"
	echo "vigil: building Alertmanager $version (some minutes, the first time)" >&2
	(cd "$source" && go build -trimpath -ldflags "-s -w -X github.com/prometheus/common/version.Version=${version#v}" -o "$home/" ./cmd/alertmanager ./cmd/amtool)
fi
echo "$home"
