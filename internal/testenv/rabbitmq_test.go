package testenv_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox/internal/testenv"
)

func TestSharedRabbitMQGivesEachTestItsOwnVHost(t *testing.T) {
	t.Parallel()
	mq := testenv.RabbitMQ(t)
	first, second := mq.NewVHost(t), mq.NewVHost(t)
	if first == second {
		t.Fatalf("two virtual hosts have the same URL %s", first)
	}
	for _, url := range []string{first, second} {
		name := url[strings.LastIndex(url, "/")+1:]
		if got := mq.Eval(fmt.Sprintf(`rabbit_vhost:exists(<<"%s">>).`, name)); got != "true" {
			t.Errorf("virtual host %s exists: %s", name, got)
		}
	}
}

func TestRabbitMQGreetsClients(t *testing.T) {
	t.Parallel()
	if greeting := greet(t, testenv.RabbitMQ(t).Addr()); !strings.Contains(greeting, "RabbitMQ") {
		t.Errorf("greeting %q does not name RabbitMQ", greeting)
	}
}

func TestRabbitMQSpeaksSTOMP(t *testing.T) {
	t.Parallel()
	conn, err := net.Dial("tcp", testenv.RabbitMQ(t).STOMPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprint(conn, "CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\x00")
	answer := make([]byte, len("CONNECTED"))
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "CONNECTED" {
		t.Errorf("answer %q, error %v", answer, err)
	}
}

func TestRabbitMQReportsFaultyExpressions(t *testing.T) {
	t.Parallel()
	failed := fails(t, func(tb testing.TB) { testenv.RabbitMQ(tb).Eval("no_such_module:f().") })
	if !strings.Contains(failed, "undef") {
		t.Errorf("message %q does not tell of the missing function", failed)
	}
}

func TestKilledRabbitMQKeepsQuorumQueues(t *testing.T) {
	t.Parallel()
	mq := testenv.StartRabbitMQ(t, nil)
	addr := mq.Addr()
	mq.Eval(`{new, _} = rabbit_amqqueue:declare(rabbit_misc:r(<<"/">>, queue, <<"q">>), true, false,
		[{<<"x-queue-type">>, longstr, <<"quorum">>}], none, <<"test">>).`)
	mq.Eval(`rabbit_basic:publish(rabbit_misc:r(<<"/">>, exchange, <<>>), <<"q">>, [{delivery_mode, 2}], <<"x">>).`)
	awaitMessages(t, mq, "1")
	mq.Kill()
	if conn, err := net.Dial("tcp", addr); err == nil {
		_ = conn.Close()
		t.Fatal("the server still takes connections")
	}
	mq.Start()
	if mq.Addr() != addr {
		t.Errorf("address %s became %s", addr, mq.Addr())
	}
	awaitMessages(t, mq, "1")
}

// awaitMessages waits until the queue q has so many messages; a restarted one elects its leader first.
func awaitMessages(t *testing.T, mq *testenv.RabbitMQServer, want string) {
	t.Helper()
	const count = `case rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"q">>)) of
		{ok, Q} -> case catch rabbit_amqqueue:stat(Q) of {ok, N, _} -> N; Other -> Other end;
		Missing -> Missing
	end.`
	deadline := time.Now().Add(patience)
	got := mq.Eval(count)
	for ; got != want && time.Now().Before(deadline); got = mq.Eval(count) {
	}
	if got != want {
		t.Fatalf("messages: %s, want %s", got, want)
	}
}

func TestPausedRabbitMQAnswersWhenResumed(t *testing.T) {
	t.Parallel()
	mq := testenv.StartRabbitMQ(t, nil)
	mq.Pause()
	greeting := make(chan string, 1)
	go func() { greeting <- greet(t, mq.Addr()) }()
	select {
	case <-greeting:
		t.Error("a paused server has answered")
	case <-time.After(100 * time.Millisecond): // nothing tells of an answer that does not come
	}
	mq.Resume()
	if got := <-greeting; !strings.Contains(got, "RabbitMQ") {
		t.Errorf("greeting %q does not name RabbitMQ", got)
	}
	mq.Stop()
	mq.Start()
}

// greet returns what an AMQP server says first.
func greet(t *testing.T, addr string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "AMQP\x00\x00\x09\x01"); err != nil {
		t.Error(err)
	}
	buf := make([]byte, 1024)
	n, err := io.ReadAtLeast(conn, buf, 100)
	if err != nil {
		t.Errorf("read %d bytes: %v", n, err)
	}
	return string(buf[:n])
}
