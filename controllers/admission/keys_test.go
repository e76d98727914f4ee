package admission

import (
	"crypto/x509"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/util/cert"
)

const host = "tierwall-webhook.tierwall-system.svc"

// now is what the keys should be at this time.
func (k Keys) now(t *testing.T) Keys {
	t.Helper()
	out, err := k.at(time.Now(), host)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// trusts tells whether those who trust what a configuration has trust what a replica serves.
func trusts(t *testing.T, trusted []byte, served Pair) bool {
	t.Helper()
	chain, err := cert.ParseCertsPEM(served.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(trusted)
	_, err = chain[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: time.Now()})
	return err == nil
}

// TestRotation plays two rotations, looking every twenty minutes. A replica may be as long behind the Secret, and an API server as well: what
// any of them serves any other trusts, and no certificate is served until its end.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const look = 20 * time.Minute
		k := Keys{}.now(t)
		past, pairs := []Keys{k, k}, 1
		for begun := time.Now(); time.Since(begun) < 130*24*time.Hour; time.Sleep(look) {
			next := k.now(t)
			if !next.Now.equal(k.Now) {
				pairs++
			}
			k = next
			if past[0].equal(k) && past[1].equal(k) {
				continue
			}
			past = append(past, k)[max(0, len(past)-2):]
			for _, served := range past {
				for _, trusted := range past {
					if !trusts(t, trusted.Trusted, served.Now) {
						t.Fatalf("after %s what is served is not trusted", time.Since(begun))
					}
				}
			}
			leaf, err := k.Now.check(time.Now(), host)
			if err != nil || leaf.NotAfter.Sub(time.Now()) < 20*24*time.Hour {
				t.Fatalf("after %s: %v", time.Since(begun), err)
			}
			cas, err := cert.ParseCertsPEM(k.Trusted)
			if err != nil || len(cas) > 2 {
				t.Fatalf("after %s %d CAs are trusted: %v", time.Since(begun), len(cas), err)
			}
		}
		if pairs != 3 {
			t.Errorf("%d pairs in 130 days", pairs)
		}
	})
}

// TestAtOnce: what cannot be served is replaced when it is seen, whatever the reason.
func TestAtOnce(t *testing.T) {
	today, err := newPair(host)
	if err != nil {
		t.Fatal(err)
	}
	other, err := newPair("tierwall-webhook.elsewhere.svc")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) { // which begins in 2000
		old := Keys{}.now(t)
		time.Sleep(life)
		for says, k := range map[string]Keys{
			"none": {}, "expired": old, "not yet valid: the clock was ahead": {Now: today, Trusted: Keys{Now: today}.trusted(time.Now(), host)},
			"of another name": {Now: other}, "a key of another": {Now: Pair{today.Certificate, other.Key}}, "no PEM": {Now: Pair{[]byte("x"), []byte("y")}, Trusted: []byte("z")},
			"cut short": {Now: Pair{today.Certificate[:900], today.Key}}, "the next one too": {Now: old.Now, Next: today},
		} {
			got := k.now(t)
			if got.Now.equal(k.Now) || !trusts(t, got.Trusted, got.Now) || len(got.Next.Certificate) > 0 {
				t.Errorf("%s: it was not replaced", says)
			}
			if again := got.now(t); !again.equal(got) {
				t.Errorf("%s: and again", says)
			}
		}
		fresh := Keys{}.now(t)
		if got := (Keys{Now: old.Now, Next: fresh.Now}).now(t); !got.Now.equal(fresh.Now) {
			t.Error("the next one was there already")
		}
		if got := (Keys{Now: fresh.Now, Next: old.Now}).now(t); !got.Now.equal(fresh.Now) {
			t.Error("a next one that cannot be served was taken")
		}
	})
}

// TestData: what is written is what is read.
func TestData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := Keys{}.now(t)
		time.Sleep(renewal)
		k = k.now(t)
		if len(k.Next.Certificate) == 0 || !keysOf(k.data()).equal(k) {
			t.Errorf("written %v", slices.Sorted(func(yield func(string) bool) {
				for name := range k.data() {
					if !yield(name) {
						return
					}
				}
			}))
		}
	})
}
