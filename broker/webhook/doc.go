// Package webhook sends and receives messages by HTTP, as CloudEvents 1.0.2
// (https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents).
//
// # Sending
//
// A [Publisher] posts each message to an URL, in one of the modes of the HTTP
// binding: structured, a JSON document; binary, attributes as headers and the
// payload as the body; or batched, a JSON array of events. The attributes of a
// message:
//
//	id               ID, the same at every attempt
//	source           the header ce-source or, without one, PublisherConfig.Source
//	type             Type or, if that is empty, Topic
//	time             CreatedAt
//	datacontenttype  ContentType
//	subject          the header ce-subject
//	dataschema       the header ce-dataschema
//	partitionkey     Key
//	traceparent      the header traceparent
//	tracestate       the header tracestate
//	correlationid    the header correlation-id
//	causationid      the header causation-id
//	outboxtopic      Topic
//	outboxtenant     Tenant
//	outboxversion    Version
//
// A further header whose name is of lower-case letters and digits, at most 20, is
// an extension of that name. All others, and what an attribute cannot carry
// unchanged, are in the extension outboxheaders, a JSON object; the [Receiver]
// restores them. The key is no subject, since it orders and need not be what the
// event is about.
//
// In the JSON documents a payload of a JSON content type is the member data, byte
// for byte; text is a string; all else, JSON that is not valid or has white space
// around it included, is in data_base64. A message of the content type
// application/cloudevents+json is an event already, and is sent as it is. In binary
// mode the values of headers are percent-encoded, as the binding demands; not every
// SDK decodes that, so a peer may see "%20" for a space. A message whose headers then
// have more than 256 KiB is ErrInvalid; many servers take 8 KiB.
//
// PublisherConfig.Body makes requests of another form in the place of events.
//
// # Answers
//
// What the server's answer means for the message, and what it means if the address
// is the message's own (PublisherConfig.URL), so that one dead endpoint of many does
// not stop the others, though requests to it take places of Concurrency for Timeout:
//
//	answer                               publisher's URL   message's URL
//	2xx                                  nil               nil
//	408, 429, 503                        ErrUnavailable    ErrRefused
//	502, 504, none (in Timeout)          see below         ErrRefused
//	no connection                        ErrUnavailable    ErrRefused
//	413, 431                             ErrInvalid        ErrInvalid
//	all other, 3xx included              ErrRefused        ErrRefused
//
// Of a server's answer [errors.As] finds the [StatusError]. Its Retry-After, with
// whatever status it comes, is passed on by [outbox.RetryAfter]. Redirects are never
// followed: they would take the headers, and what they authorize, to where nobody
// meant them to go.
//
// That there is no answer, or that a proxy got none, is ErrUnavailable. But it may be
// the message that the server hangs or falls over: if there is none for it again, and
// another message got 2xx in the meantime, it is ErrRefused. So a server that comes and
// goes can cost a message an attempt.
//
// A batch that is refused by 400, 413, 422 or 500, without Retry-After, is sent again
// event by event, for at most Timeout; by another answer all its messages are refused.
// A message that was refused, or not answered, is sent alone from then on.
//
// A status speaks of the server or of the message, and 503 stops all messages until
// it is gone: a server that cannot handle one message, and could handle others,
// should answer 500 or 422, with Retry-After if it likes. The [Receiver] answers 503,
// which other senders repeat most readily, and adds "Outbox-Outcome: retry", by which
// the publisher takes it for ErrRefused.
//
// # Signatures
//
// With PublisherConfig.Secrets each request to the publisher's URL is signed by Standard Webhooks
// (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md):
// webhook-id is the message's id, for a batch of several one made of all their ids;
// webhook-timestamp is the time of the attempt; and webhook-signature has one
// signature for each secret, so that secrets can be replaced one after the other.
//
// # Addresses that come from messages
//
// Whoever chooses an address makes this process send requests there. So for a
// message's own URL connections to loopback, private, link-local and other addresses
// that are not of the public Internet are refused when they are made, after the name
// was resolved, which no DNS answer can get around; PublisherConfig.Allow names
// exceptions. Such requests bypass proxies, carry none of the configured Headers, and
// are not signed.
//
// # Receiving
//
// A [Receiver] is an http.Handler, and a worker's subscriber:
//
//	rec, err := webhook.NewReceiver(nil)
//	w := worker.New(rec, &worker.Config{Queue: "mail"})
//	worker.HandleTx(w, inbox, "user.created", welcome)
//	http.Handle("/events", rec)
//
// It takes events in all three modes, and answers when the worker has settled them:
//
//	204  handled, now or before: the inbox of HandleTx knows what comes again
//	400  no CloudEvent; of a topic that no handler is for; refused by its handler, or
//	     undecodable: what the worker would send to the dead letters
//	401  not signed, or not authorized
//	405  neither POST nor OPTIONS
//	408  not read within http.Server.ReadTimeout
//	413  more bytes or events than ReceiverConfig allows
//	415  a format other than JSON, or compressed
//	503  to be sent again, not before Retry-After: the handler failed or took too long
//	     (with "Outbox-Outcome: retry"), no worker runs, it is being stopped, or it has
//	     too much to do
//
// So the sender counts attempts, and keeps what it gives up. A reason is given for
// what is wrong with the request, and never the error of a handler, which the
// worker's log has.
//
// A batch that has anything that is no event is refused whole. Otherwise all events
// are handled that can be, each by itself, and the answer is the worst one: what was
// handled comes again with the rest, and needs an inbox.
//
// When the sender hangs up, a handler that has begun goes on; what waits for its turn
// is not handled. Limits on time while a request is read are the http.Server's:
// set ReadHeaderTimeout and ReadTimeout. Its WriteTimeout, if there is one, has to be
// longer than ReadTimeout and ReceiverConfig.Timeout together. To stop, end the worker first, then call
// Server.Shutdown: what runs is answered, all else gets 503.
package webhook
