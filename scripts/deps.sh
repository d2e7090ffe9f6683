#!/usr/bin/env bash
# deps.sh sees to it that the servers the tests start are installed. It does nothing when they are. Otherwise, as
# root on Debian or Ubuntu, it installs the packages without letting them start their services; elsewhere it says
# what to do. A working Docker is the last resort: then "deps.sh env" prints the variables for compose.yaml's servers.
set -euo pipefail
cd "$(dirname "$0")/.."

have_postgres() {
	[ -n "${OUTBOX_TEST_POSTGRES_URL:-}" ] || command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}

have_rabbitmq() {
	[ -n "${OUTBOX_TEST_RABBITMQ_URL:-}" ] || command -v rabbitmq-server >/dev/null || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]
}

missing() {
	have_postgres || echo postgresql
	have_rabbitmq || echo rabbitmq-server
}

# A policy-rc.d that answers 101 keeps the package scripts from starting services. What was there comes back.
install_debian() {
	local policy=/usr/sbin/policy-rc.d saved
	saved=$(mktemp -d)
	if [ -e "$policy" ]; then mv "$policy" "$saved/policy-rc.d"; fi
	# shellcheck disable=SC2064 # the values of now are meant
	trap "rm -f '$policy'; if [ -e '$saved/policy-rc.d' ]; then mv '$saved/policy-rc.d' '$policy'; fi; rm -rf '$saved'" EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q </dev/null
	apt-get install -y -q --no-install-recommends "$@" </dev/null
}

docker_works() {
	command -v docker >/dev/null && docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1
}

start_containers() {
	docker compose up --detach --wait >&2
}

print_env() {
	have_postgres || echo "export OUTBOX_TEST_POSTGRES_URL=postgres://postgres@127.0.0.1:25432/postgres"
	have_rabbitmq || cat <<-END
		export OUTBOX_TEST_RABBITMQ_URL=amqp://guest:guest@127.0.0.1:25672/
		export OUTBOX_TEST_STOMP_ADDR=127.0.0.1:25613
		export OUTBOX_TEST_RABBITMQ_CTL="docker compose --file '$PWD/compose.yaml' exec -T rabbitmq rabbitmqctl"
	END
}

complain() {
	cat >&2 <<-END
		The tests need PostgreSQL and RabbitMQ servers to start; not found: $*
		Install them in one of these ways, then run make again:
		  Debian, Ubuntu   sudo apt-get install --no-install-recommends $*
		  as root there    make deps
		  Docker           start its daemon; compose.yaml is used then (tests that kill servers still need the binaries)
		or name running servers by OUTBOX_TEST_POSTGRES_URL and OUTBOX_TEST_RABBITMQ_URL (see internal/testenv).
	END
	exit 1
}

mapfile -t packages < <(missing)
if [ "${1:-}" = env ]; then
	if [ "${#packages[@]}" -gt 0 ]; then print_env; fi
elif [ "${#packages[@]}" -eq 0 ]; then
	:
elif [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
	install_debian "${packages[@]}"
elif docker_works; then
	start_containers
else
	complain "${packages[@]}"
fi
