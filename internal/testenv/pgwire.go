package testenv

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"
)

// queryTimeout bounds one query, so that a paused server fails the test instead of hanging it.
const queryTimeout = 30 * time.Second

// query runs SQL, one statement or several without parameters, on a connection of its own and returns the rows of
// all of them as text, a NULL as "". It speaks the protocol itself so that this module needs no driver, and so that
// a query costs two milliseconds and not psql's twenty.
func query(rawURL, sql string) ([][]string, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, errors.New("malformed PostgreSQL URL")
	}
	conn, err := net.DialTimeout("tcp", u.Host, queryTimeout)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(queryTimeout)); err != nil {
		return nil, err
	}
	c := &pgConn{r: bufio.NewReader(conn), w: conn}
	if err := c.login(u); err != nil {
		return nil, fmt.Errorf("log in: %w", err)
	}
	if err := c.send('Q', sql); err != nil {
		return nil, err
	}
	return c.untilReady(u)
}

type pgConn struct {
	r *bufio.Reader
	w io.Writer
}

func (c *pgConn) login(u *url.URL) error {
	body := binary.BigEndian.AppendUint32(nil, 3<<16) // protocol 3.0
	for _, s := range []string{"user", u.User.Username(), "database", strings.TrimPrefix(u.Path, "/"), ""} {
		body = append(append(body, s...), 0)
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(body)+4))
	if _, err := c.w.Write(append(head, body...)); err != nil {
		return err
	}
	_, err := c.untilReady(u)
	return err
}

// send sends a message whose body is one string.
func (c *pgConn) send(kind byte, text string) error {
	msg := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(text)+5))
	_, err := c.w.Write(append(append(msg, text...), 0))
	return err
}

// untilReady reads messages until the server is ready for the next query.
func (c *pgConn) untilReady(u *url.URL) (rows [][]string, err error) {
	for {
		kind, body, failed := c.receive()
		if failed != nil {
			return nil, errors.Join(err, failed)
		}
		switch kind {
		case 'Z':
			return rows, err
		case 'D':
			rows = append(rows, dataRow(body))
		case 'E':
			err = errors.New(serverError(body))
		case 'R':
			if failed := c.authenticate(u, binary.BigEndian.Uint32(body)); failed != nil {
				return nil, failed
			}
		}
	}
}

func (c *pgConn) authenticate(u *url.URL, method uint32) error {
	const ok, cleartext = 0, 3
	switch method {
	case ok:
		return nil
	case cleartext:
		password, _ := u.User.Password()
		return c.send('p', password)
	}
	return fmt.Errorf("the server asks for authentication %d; let it trust this user", method)
}

func (c *pgConn) receive() (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return 0, nil, err
	}
	body = make([]byte, binary.BigEndian.Uint32(head[1:])-4)
	_, err = io.ReadFull(c.r, body)
	return head[0], body, err
}

func dataRow(body []byte) []string {
	row := make([]string, binary.BigEndian.Uint16(body))
	body = body[2:]
	for i := range row {
		n := int32(binary.BigEndian.Uint32(body))
		body = body[4:]
		if n > 0 { // -1 is NULL
			row[i] = string(body[:n])
			body = body[n:]
		}
	}
	return row
}

// serverError returns severity, code and message of an error message's fields.
func serverError(body []byte) string {
	var parts []string
	for field := range strings.SplitSeq(string(body), "\x00") {
		if field != "" && strings.ContainsRune("VCM", rune(field[0])) {
			parts = append(parts, field[1:])
		}
	}
	return strings.Join(parts, " ")
}
