package wire

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/youmark/pkcs8"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
)

// checkTLS reports what is wrong with the keys of broker.tls.
func checkTLS(l *config.Loaded) {
	readTLS(l.Broker.TLS, func(key string, err error) { fault(l, "broker."+key, err) })
	if l.Broker.TLS != (config.TLS{}) && len(l.Routes) == 0 { // else it may be for a route
		fault(l, "broker.url", notEncrypted(l.Broker.URL))
	}
}

// checkRouteTLS reports what is wrong with a route's TLS, if it has one of its own.
func checkRouteTLS(l *config.Loaded, r *config.Route) {
	if !r.OwnTLS() {
		return
	}
	readTLS(r.Broker.TLS, func(key string, err error) {
		r.Fault(l, strings.ReplaceAll(key, ".", "_"), faultText(err))
	})
	if err := notEncrypted(r.Broker.URL); err != nil {
		r.Fault(l, "broker_url", err.Error())
	}
}

// brokerTLS returns what the keys of t ask for, or nil, for a driver's own default,
// if they ask for nothing.
func brokerTLS(t config.TLS) (*tls.Config, error) {
	var errs []error
	c := readTLS(t, func(key string, err error) {
		errs = append(errs, fmt.Errorf("broker.%s %w", key, err))
	})
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return c, nil
}

// readTLS reads the files that t names, and calls fault for each key with what is
// wrong with it.
func readTLS(t config.TLS, fault func(key string, err error)) *tls.Config {
	if t == (config.TLS{}) {
		return nil
	}
	c := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		authorities, err := readCertificates(t.CA)
		if err != nil {
			fault("tls.ca", err)
		}
		c.RootCAs = x509.NewCertPool()
		for _, authority := range authorities {
			c.RootCAs.AddCert(authority)
		}
	}
	switch {
	case t.Cert != "" && t.Key == "":
		fault("tls.cert", errors.New("has no private key beside it: name the file of that by tls.key"))
	case t.Cert == "" && t.Key != "":
		fault("tls.key", errors.New("has no certificate beside it: name the file of that by tls.cert"))
	case t.Cert != "":
		c.Certificates = []tls.Certificate{readPair(t, fault)}
	}
	return c
}

// readPair reads the client certificate and its key.
func readPair(t config.TLS, fault func(key string, err error)) tls.Certificate {
	chain, err := readCertificates(t.Cert)
	if err != nil {
		fault("tls.cert", err)
	}
	key, err := readKey(t.Key, t.KeyPassword)
	switch {
	case errors.Is(err, errPassword):
		fault("tls.key_password", err)
	case err != nil:
		fault("tls.key", err)
	}
	if len(chain) == 0 || key == nil {
		return tls.Certificate{}
	}
	var certs []byte
	for _, c := range chain {
		certs = append(certs, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: c.Raw})...)
	}
	pair, err := tls.X509KeyPair(certs, key)
	if err != nil {
		fault("tls.key", fmt.Errorf("does not go with the certificate of tls.cert: %w", err))
	}
	return pair
}

const certificateBlock = "CERTIFICATE"

// readCertificates reads a file with one certificate or more.
func readCertificates(path string) ([]*x509.Certificate, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	var list []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != certificateBlock {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("has a certificate, number %d, that cannot be read: %w", len(list)+1, err)
		}
		list = append(list, c)
	}
	if list == nil {
		return nil, errors.New("has no certificate in it: name a PEM file, with -----BEGIN CERTIFICATE-----")
	}
	return list, nil
}

var errPassword = errors.New("does not open the private key")

// readKey reads the private key of a file, and returns it in PEM and not encrypted.
func readKey(path, password string) ([]byte, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(data)
	for block != nil && !strings.HasSuffix(block.Type, "PRIVATE KEY") {
		block, rest = pem.Decode(rest) // a certificate, or EC PARAMETERS
	}
	if block == nil {
		return nil, errors.New("has no private key in it: name a PEM file, with -----BEGIN PRIVATE KEY-----")
	}
	legacy := x509.IsEncryptedPEMBlock(block) //nolint:staticcheck // many such keys are in use; it is read from a file that we trust
	switch encrypted := block.Type == "ENCRYPTED PRIVATE KEY"; {
	case !encrypted && !legacy:
		return pem.EncodeToMemory(block), nil
	case password == "":
		return nil, errors.New("is encrypted: give its password by tls.key_password")
	case encrypted:
		return decryptPKCS8(block.Bytes, password)
	}
	der, err := x509.DecryptPEMBlock(block, []byte(password)) //nolint:staticcheck // as above
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPassword, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: der}), nil
}

func decryptPKCS8(der []byte, password string) ([]byte, error) {
	key, err := pkcs8.ParsePKCS8PrivateKey(der, []byte(password))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPassword, err)
	}
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: plain}), nil
}

// readFile leaves the path out of its errors: the problem that they become has it.
func readFile(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	var fault *fs.PathError
	if errors.As(err, &fault) {
		err = fault.Err
	}
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	return data, nil
}

// notEncrypted reports a URL whose connections would not heed the keys of TLS.
func notEncrypted(url string) error {
	switch scheme, _, _ := strings.Cut(url, ":"); scheme {
	case "amqp", "stomp", "http":
		return fmt.Errorf("is not encrypted, and keys of tls are set: begin it with %ss://, or leave them out", scheme)
	}
	return nil
}
