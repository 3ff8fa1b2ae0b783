#!/usr/bin/env bash
# Prints the directory of an unpacked Elasticsearch 8, fetching the runnable
# minimal distribution from Maven Central the first time. It needs Maven and a
# Java runtime of 17 or later.
set -euo pipefail

version=${ELASTICSEARCH_VERSION:-8.17.0}
cache=${VIGIL_CACHE:-/var/tmp/vigil-cache}
home=$cache/elasticsearch-$version
if [ ! -x "$home/bin/elasticsearch" ]; then
	for program in mvn java unzip; do
		command -v $program >/dev/null || { echo "vigil: $program is not installed (Debian: maven, default-jre-headless, unzip)" >&2; exit 1; }
	done
	echo "vigil: fetching Elasticsearch $version (90 MB)" >&2
	mkdir -p "$cache"
	part=$(mktemp -d "$cache/part.XXXXXX")
	trap 'rm -rf "$part"' EXIT
	mvn -q -B dependency:get -Dtransitive=false \
		-Dartifact=org.elasticsearch.distribution.integ-test-zip:elasticsearch:"$version":zip >&2
	mvn -q -B dependency:copy -Dartifact=org.elasticsearch.distribution.integ-test-zip:elasticsearch:"$version":zip \
		-DoutputDirectory="$part" >&2
	unzip -q "$part"/elasticsearch-"$version".zip -d "$part"
	chmod -R go+rX "$part"
	rm -rf "$home"
	mv "$part/elasticsearch-$version" "$home"
	chmod +x "$home"/bin/*
	chmod 755 "$cache"
fi
echo "$home"
