package testenv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority is a certificate authority of a test's own, which nobody trusts unless told to.
type Authority struct {
	tb   testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

// Identity is a certificate with its key. The files are in PEM, the key as PKCS #8, and end with the test.
type Identity struct {
	Pair              tls.Certificate
	CertFile, KeyFile string
}

// NewAuthority makes an authority.
func NewAuthority(tb testing.TB) *Authority {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(tb, err)
	template := certificate("testenv authority")
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(tb, err)
	cert, err := x509.ParseCertificate(der)
	must(tb, err)
	file := filepath.Join(tb.TempDir(), "authority.pem")
	writePEM(tb, file, "CERTIFICATE", der)
	return &Authority{tb: tb, cert: cert, key: key, file: file}
}

// File returns the path of the authority's certificate.
func (a *Authority) File() string { return a.file }

// Pool returns the authority alone, for those who are to trust it.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Issue makes a certificate for a client of that name or, with hosts, which are names or IP addresses, for a server.
func (a *Authority) Issue(name string, hosts ...string) *Identity {
	a.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.tb, err)
	template := certificate(name)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	must(a.tb, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	must(a.tb, err)
	dir := a.tb.TempDir()
	id := &Identity{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	writePEM(a.tb, id.CertFile, "CERTIFICATE", cert)
	writePEM(a.tb, id.KeyFile, "PRIVATE KEY", secret)
	id.Pair, err = tls.LoadX509KeyPair(id.CertFile, id.KeyFile)
	must(a.tb, err)
	return id
}

// certificate returns what all certificates have in common. The clocks of client and server are the same, and no test
// takes an hour.
func certificate(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(12 * time.Hour),
	}
}

func writePEM(tb testing.TB, path, kind string, der []byte) {
	tb.Helper()
	must(tb, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}
