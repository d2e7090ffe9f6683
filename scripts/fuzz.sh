#!/usr/bin/env bash
# fuzz.sh TIME runs each fuzz test of the module in the working directory for that long: go test takes one at a time.
set -euo pipefail
time=${1:?}
for package in $(go list ./...); do
	for name in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		echo "$package $name"
		go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "$package"
	done
done
