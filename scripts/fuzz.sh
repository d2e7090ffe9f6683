#!/usr/bin/env bash
# fuzz.sh TIME runs each fuzz test of the module in the working directory for that long: go test takes one at a time.
set -euo pipefail
time=${1:?}
packages=$(go list ./...)
for package in $packages; do
	listed=$(go test -list '^Fuzz' "$package") || { echo "$listed" >&2; exit 1; }
	for name in $(grep '^Fuzz' <<<"$listed" || true); do
		echo "$package $name"
		go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "$package"
	done
done
