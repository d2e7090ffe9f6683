package testenv

import (
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"time"
)

//go:embed control.erl
var controlScript string

// evalSocket has the node behind a control socket evaluate an Erlang expression.
func evalSocket(path, expression string, timeout time.Duration) (string, error) {
	conn, err := net.DialTimeout("unix", path, timeout)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	packet := binary.BigEndian.AppendUint32(nil, uint32(len(expression)))
	if _, err := conn.Write(append(packet, expression...)); err != nil {
		return "", err
	}
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return "", err
	}
	answer := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return "", err
	}
	if len(answer) == 0 || answer[0] != '+' {
		return "", fmt.Errorf("evaluate %s: %s", expression, answer)
	}
	return string(answer[1:]), nil
}

// evalCommand does the same by rabbitmqctl, given as a shell command.
func evalCommand(rabbitmqctl, expression string) (string, error) {
	cmd := exec.Command("sh", "-c", rabbitmqctl+` eval "$1"`, "sh", expression)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", errors.Join(fmt.Errorf("%s: %w", rabbitmqctl, err), errors.New(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}
