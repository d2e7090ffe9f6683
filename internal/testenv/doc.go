// Package testenv gives tests real servers: PostgreSQL and RabbitMQ, started from the installed programs on free
// loopback ports in temporary folders, and a TCP proxy that misbehaves on demand.
//
// A test takes the shared server of its process where it can, and a private one where it kills, stops or pauses it:
//
//	func TestMain(m *testing.M) { testenv.Main(m) }
//
//	func TestStore(t *testing.T) {
//		url := testenv.Postgres(t).NewDatabase(t)
//		...
//	}
//
//	func TestCrash(t *testing.T) {
//		pg := testenv.StartPostgres(t, nil)
//		...
//		pg.Kill()
//		pg.Start()
//	}
//
// Nothing outlives the test binary, however it ends: a watchdog process ends the servers and removes their folders,
// and the next run does so for a watchdog that was killed as well.
//
// A server that cannot be started fails the test; nothing is skipped.
//
// # Servers of elsewhere
//
// The shared servers are taken from elsewhere when these variables are set, as compose.yaml does:
//
//   - OUTBOX_TEST_POSTGRES_URL: a superuser's URL; its password, if any, is sent in clear text.
//   - OUTBOX_TEST_RABBITMQ_URL: an AMQP URL of an administrator.
//   - OUTBOX_TEST_STOMP_ADDR: the address, host:port, where that server speaks STOMP.
//   - OUTBOX_TEST_RABBITMQ_CTL: the shell command that is rabbitmqctl for that server. Defaults to rabbitmqctl.
//
// Private servers always need the programs.
package testenv
