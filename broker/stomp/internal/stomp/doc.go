// Package stomp is a client of STOMP 1.2
// (https://stomp.github.io/stomp-specification-1.2.html): frames, the handshake,
// heart-beats, and limits on what a peer may send. What the frames mean, receipts,
// subscriptions and reconnecting, is the business of its user.
//
// A connection is opened by [Dial]. One goroutine reads it to its end, any may
// write:
//
//	conn, err := stomp.Dial(ctx, &stomp.Config{Addr: "localhost:61613", Login: "guest", Passcode: "guest"})
//	if err != nil {
//		return err
//	}
//	defer conn.Close()
//	frame := &stomp.Frame{Command: stomp.Send, Body: body}
//	frame.Add("destination", "/queue/a")
//	if err := conn.Write(frame); err != nil {
//		return err
//	}
//	return conn.Flush()
//
// # Ends
//
// A connection has one reason to end, and every call returns it from then on: the
// ERROR frame of the server ([*ServerError]), what the peer did wrong
// ([*ProtocolError], [*LimitError]), silence ([ErrSilent]), a failed write, or
// [ErrClosed]. A server that ends a connection says why in an ERROR frame and closes
// its side; a write that fails by that closing is not the reason. So after a failed
// write Read goes on for a second at most, and an ERROR frame that it finds takes
// the place of the error of the write.
//
// # Heart-beats
//
// Each side says what it can send and what it wants, and the slower of the two
// counts. When half of our interval has passed without a write, a heart-beat is sent,
// so that the peer never waits for longer than the interval. A Read to which nothing
// comes for twice the peer's interval takes it for dead. RabbitMQ counts in whole
// seconds and rounds down, but up to one second.
package stomp
