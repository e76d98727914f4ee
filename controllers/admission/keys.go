package admission

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"k8s.io/client-go/util/cert"
)

// Pair is a serving certificate with its key, in PEM. Behind the certificate stands the CA that signed it, which signs nothing else: its own
// key is thrown away.
type Pair struct {
	Certificate, Key []byte
}

// Keys are what replicas serve with, and what the API server is to trust.
type Keys struct {
	Now     Pair   // is served
	Next    Pair   // is served as soon as its CA has been trusted for a while; none most of the time
	Trusted []byte // the certificates of CAs, in PEM
}

// How long what lasts. A new pair counts as an hour old, for clocks differ.
const (
	life    = 90 * 24 * time.Hour // of a pair
	renewal = 60 * 24 * time.Hour // after which there is a next one
	settled = 2 * time.Hour       // after which every API server trusts its CA
	overlap = 26 * time.Hour      // after which no replica serves what was before it
)

// mostTrusted CAs are kept, whatever somebody has written into the Secret.
const mostTrusted = 4

// at is what the keys should be at a time: a pair that cannot be served is replaced at once, one that grows old by way of a next one, so that
// what is served is always trusted already.
func (k Keys) at(now time.Time, host string) (Keys, error) {
	next, errNext := k.Next.check(now, host)
	current, errNow := k.Now.check(now, host)
	switch {
	case errNow != nil && errNext == nil, errNext == nil && now.Sub(next.NotBefore) > settled:
		k.Now, k.Next = k.Next, Pair{}
	case errNow != nil:
		pair, err := newPair(host)
		if err != nil {
			return k, err
		}
		k.Now, k.Next = pair, Pair{}
	case errNext != nil && now.Sub(current.NotBefore) > renewal:
		pair, err := newPair(host)
		if err != nil {
			return k, err
		}
		k.Next = pair
	}
	k.Trusted = k.trusted(now, host)
	return k, nil
}

// trusted are the CAs of both pairs and, while the pair is young, those from before.
func (k Keys) trusted(now time.Time, host string) []byte {
	var own, out []*x509.Certificate
	for _, p := range []Pair{k.Next, k.Now} {
		if chain, err := cert.ParseCertsPEM(p.Certificate); err == nil {
			own = append(own, chain[len(chain)-1])
		}
	}
	current, err := k.Now.check(now, host)
	if young := err == nil && now.Sub(current.NotBefore) < overlap; young {
		out, _ = cert.ParseCertsPEM(k.Trusted) // what cannot be read is no CA
	}
	var pem []byte
	seen := map[string]bool{}
	for _, c := range append(own, out...) {
		if !seen[string(c.Raw)] && len(seen) < mostTrusted && c.IsCA && now.Before(c.NotAfter) {
			seen[string(c.Raw)] = true
			text, err := cert.EncodeCertificates(c)
			if err == nil {
				pem = append(pem, text...)
			}
		}
	}
	return pem
}

// check gives the certificate of a pair that can be served to those who trust its CA and ask for the host.
func (p Pair) check(now time.Time, host string) (*x509.Certificate, error) {
	if len(p.Certificate) == 0 {
		return nil, errors.New("there is none")
	}
	pair, err := tls.X509KeyPair(p.Certificate, p.Key)
	if err != nil {
		return nil, err
	}
	chain, err := cert.ParseCertsPEM(p.Certificate)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(chain[len(chain)-1])
	if pair.Leaf == nil {
		return nil, errors.New("it has no certificate")
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: now})
	return pair.Leaf, err
}

func newPair(host string) (Pair, error) {
	certificate, key, err := cert.GenerateSelfSignedCertKeyWithOptions(cert.SelfSignedCertKeyOptions{Host: host, MaxAge: life})
	if err != nil {
		return Pair{}, fmt.Errorf("making a certificate for %s: %w", host, err)
	}
	return Pair{certificate, key}, nil
}

// The keys of the Secret's data.
const (
	dataCertificate     = "tls.crt"
	dataKey             = "tls.key"
	dataNextCertificate = "next.crt"
	dataNextKey         = "next.key"
	dataTrusted         = "ca.crt"
)

func keysOf(data map[string][]byte) Keys {
	return Keys{Pair{data[dataCertificate], data[dataKey]}, Pair{data[dataNextCertificate], data[dataNextKey]}, data[dataTrusted]}
}

func (k Keys) data() map[string][]byte {
	out := map[string][]byte{}
	for name, text := range map[string][]byte{dataCertificate: k.Now.Certificate, dataKey: k.Now.Key,
		dataNextCertificate: k.Next.Certificate, dataNextKey: k.Next.Key, dataTrusted: k.Trusted} {
		if len(text) > 0 {
			out[name] = text
		}
	}
	return out
}

func (k Keys) equal(o Keys) bool {
	return bytes.Equal(k.Trusted, o.Trusted) && k.Now.equal(o.Now) && k.Next.equal(o.Next)
}

func (p Pair) equal(o Pair) bool {
	return bytes.Equal(p.Certificate, o.Certificate) && bytes.Equal(p.Key, o.Key)
}
