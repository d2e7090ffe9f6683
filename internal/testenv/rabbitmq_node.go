package testenv

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// rabbitmq is the server itself, of no test. Without a server (s is nil) it runs elsewhere.
type rabbitmq struct {
	s      *server
	shared bool
	url    string
	// stompAddr is where the same broker speaks STOMP.
	stompAddr string
	program   string
	epmd      string
	config    string
	// The ports for clients by two protocols, for the node's distribution protocol, and for epmd, by which nodes find
	// one another.
	amqp, stomp, dist, names *port
	tls                      *encryption // nil for none
}

const rabbitmqConfig = `
# A machine that is short of disk or memory must not block the publishers.
disk_free_limit.absolute = 1MB
vm_memory_high_watermark.relative = 0.9
# A new log segment for 512 MB would be the default.
raft.wal_max_size_bytes = 67108864
log.console = true
log.console.level = warning
log.file = false
`

func newRabbitMQ(opts *RabbitMQOptions) (*rabbitmq, error) {
	// Debian's program in /usr/sbin runs as two users only, and in a folder of its own.
	program, err := findProgram("rabbitmq-server", "/usr/lib/rabbitmq/bin")
	if err != nil {
		return nil, err
	}
	epmd, err := findProgram("epmd", "/usr/lib/erlang/bin")
	if err != nil {
		return nil, err
	}
	s, err := newServer("rabbitmq", "rabbitmq")
	if err != nil {
		return nil, err
	}
	r := &rabbitmq{s: s, program: program, epmd: epmd, config: rabbitmqConfig + opts.Config}
	if opts.TLS != nil {
		r.tls = &encryption{TLSOptions: opts.TLS}
		if err := r.tls.write(s); err != nil {
			return nil, err
		}
	}
	files := map[string]string{
		"enabled_plugins": "[rabbitmq_stomp].\n",
		"control.erl":     controlScript,
	}
	for name, text := range files {
		if err := s.write(name, text); err != nil {
			return nil, err
		}
	}
	return r, r.startFirst()
}

// startFirst starts the server on ports that are free, on others if somebody was faster.
func (r *rabbitmq) startFirst() error {
	const tries = 3
	var err error
	for range tries {
		for _, p := range r.ports() {
			if *p, err = takePort(); err != nil {
				return err
			}
		}
		r.url = "amqp://guest:guest@" + r.amqp.addr() + "/"
		r.stompAddr = r.stomp.addr()
		config := r.config + "stomp.listeners.tcp.1 = " + r.stompAddr + "\n"
		if r.tls != nil {
			config += r.tls.config(r.s.dir)
		}
		if err := r.s.write("rabbitmq.conf", config); err != nil {
			return err
		}
		err = r.start()
		if err == nil || !strings.Contains(err.Error(), "eaddrinuse") {
			return err
		}
		r.releasePorts()
	}
	return err
}

func (r *rabbitmq) start() error {
	if r.s.running.Load() {
		return fmt.Errorf("%s runs already", r.s.name)
	}
	if err := r.startNames(); err != nil {
		return err
	}
	cmd, err := r.s.command(r.environment(), r.program, "-noinput", "-eval", `file:eval("control.erl").`)
	if err != nil {
		return err
	}
	if err := r.s.spawn(cmd); err != nil {
		return err
	}
	return r.s.await(r.ready)
}

// startNames starts epmd. The node would start one itself, as a daemon that leaves the server's folder.
func (r *rabbitmq) startNames() error {
	cmd, err := r.s.command(r.environment(), r.epmd)
	if err != nil {
		return err
	}
	defer closeLog(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start epmd: %w", err)
	}
	go func() { _ = cmd.Wait() }()
	deadline := time.Now().Add(startTimeout)
	for !r.namesReady() {
		if time.Now().After(deadline) {
			return fmt.Errorf("epmd not ready after %v\n%s", startTimeout, r.s.logTail())
		}
		time.Sleep(pollInterval)
	}
	return nil
}

func (r *rabbitmq) namesReady() bool {
	conn, err := net.Dial("tcp", r.names.addr())
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// environment keeps the node in its folder and away from the machine's configuration.
func (r *rabbitmq) environment() []string {
	in := func(name string) string { return filepath.Join(r.s.dir, name) }
	return []string{
		"RABBITMQ_NODENAME=outbox" + strconv.Itoa(r.amqp.number) + "@localhost",
		"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
		"RABBITMQ_NODE_PORT=" + strconv.Itoa(r.amqp.number),
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(r.dist.number),
		"RABBITMQ_MNESIA_BASE=" + in("data"),
		"RABBITMQ_LOG_BASE=" + r.s.dir,
		"RABBITMQ_LOGS=" + in("broker.log"),
		"RABBITMQ_SCHEMA_DIR=" + in("schema"),
		"RABBITMQ_CONF_ENV_FILE=" + in("none"),
		"RABBITMQ_CONFIG_FILE=" + in("rabbitmq.conf"),
		"RABBITMQ_ADVANCED_CONFIG_FILE=" + in("none"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + in("enabled_plugins"),
		// The program becomes the node, instead of waiting for one: only the end of a child is certain to be known.
		"RABBITMQ_ALLOW_INPUT=1",
		// The schedulers share the cores with the tests.
		"RABBITMQ_SCHEDULER_BIND_TYPE=u",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"ERL_EPMD_PORT=" + strconv.Itoa(r.names.number),
		"OUTBOX_TESTENV_CONTROL=" + r.control(),
	}
}

func (r *rabbitmq) control() string { return filepath.Join(r.s.dir, "control") }

// ready asks the node first: a port that answers is not yet a broker that has recovered its queues.
func (r *rabbitmq) ready() bool {
	booted, err := evalSocket(r.control(), "rabbit:is_booted().", queryTimeout)
	return err == nil && booted == "true" && answersAMQP(r.amqp.addr())
}

// answersAMQP tells whether the server at addr greets a client with the first method of AMQP 0-9-1.
func answersAMQP(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, queryTimeout)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(queryTimeout))
	if _, err := io.WriteString(conn, "AMQP\x00\x00\x09\x01"); err != nil {
		return false
	}
	var frame [11]byte // type, channel, size, class connection, method start
	_, err = io.ReadFull(conn, frame[:])
	return err == nil && slices.Equal(frame[7:], []byte{0, 10, 0, 10})
}

// eval has the broker evaluate an Erlang expression.
func (r *rabbitmq) eval(expression string) (string, error) {
	if r.s != nil {
		return evalSocket(r.control(), expression, queryTimeout)
	}
	return evalCommand(cmp.Or(os.Getenv("OUTBOX_TEST_RABBITMQ_CTL"), "rabbitmqctl"), expression)
}

// kill ends the server. RabbitMQ 3.10 writes the name of a new quorum queue to disk up to three seconds after it has
// confirmed the declaration; killed before, it starts again with that queue empty, whatever it had confirmed. That is
// the broker's own loss, no test is about it, and so the names are written first, unless the server is paused.
func (r *rabbitmq) kill() error {
	const flush = "dets:sync(maps:get(directory_rev, maps:get(names, ra_system:fetch(quorum_queues))))."
	_, _ = evalSocket(r.control(), flush, time.Second)
	return r.s.kill()
}

// close ends the server and removes it. Nobody needs its data: no time is spent on an orderly end.
func (r *rabbitmq) close() error {
	defer r.releasePorts()
	if err := r.s.kill(); err != nil {
		return err
	}
	return r.s.remove()
}

func (r *rabbitmq) ports() []**port {
	list := []**port{&r.amqp, &r.stomp, &r.dist, &r.names}
	if r.tls != nil {
		list = append(list, &r.tls.amqp, &r.tls.stomp)
	}
	return list
}

func (r *rabbitmq) releasePorts() {
	for _, p := range r.ports() {
		(*p).release()
	}
}
