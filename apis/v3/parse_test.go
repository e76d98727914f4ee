package v3_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

func number(n int32) intstr.IntOrString { return intstr.FromInt32(n) }
func text(s string) intstr.IntOrString  { return intstr.FromString(s) }

func TestParseProtocol(t *testing.T) {
	for _, c := range []struct {
		in   intstr.IntOrString
		want uint8 // 0: refused
	}{
		{text("TCP"), 6}, {text("UDP"), 17}, {text("ICMP"), 1}, {text("ICMPv6"), 58}, {text("SCTP"), 132}, {text("UDPLite"), 136},
		{number(1), 1}, {number(6), 6}, {number(255), 255}, {text("47"), 47}, {text("255"), 255},
		{text("tcp"), 0}, {text("Tcp"), 0}, {text("ICMPV6"), 0}, {text("GRE"), 0}, {text(""), 0}, {text(" TCP"), 0}, {text("6.0"), 0},
		{text("+6"), 0}, {text("06"), 0}, {text("-6"), 0}, {text("0"), 0}, {text("256"), 0}, {text("99999999999999999999"), 0},
		{number(0), 0}, {number(-1), 0}, {number(256), 0}, {number(262), 0},
	} {
		have, err := v3.ParseProtocol(c.in)
		if have != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%q: %d, %v; want %d", c.in.String(), have, err, c.want)
		}
		if err != nil && !strings.Contains(err.Error(), "1 to 255") {
			t.Errorf("%q: %q does not say what was expected", c.in.String(), err)
		}
	}
}

func TestParsePort(t *testing.T) {
	const (
		bounds = "between 1 and 65535"
		order  = "greater than"
		form   = "expected min:max"
		name   = "expected a number"
	)
	long := strings.Repeat("a", 128)
	for _, c := range []struct {
		in     intstr.IntOrString
		want   v3.Port
		reason string
	}{
		{number(1), v3.Port{Min: 1, Max: 1}, ""},
		{number(65535), v3.Port{Min: 65535, Max: 65535}, ""},
		{text("80"), v3.Port{Min: 80, Max: 80}, ""},
		{text("80:90"), v3.Port{Min: 80, Max: 90}, ""},
		{text("80:80"), v3.Port{Min: 80, Max: 80}, ""},
		{text("1:65535"), v3.Port{Min: 1, Max: 65535}, ""},
		{text("http"), v3.Port{Name: "http"}, ""},
		{text("a_.-B"), v3.Port{Name: "a_.-B"}, ""},
		{text("8a"), v3.Port{Name: "8a"}, ""},
		{text(long), v3.Port{Name: long}, ""},
		{number(0), v3.Port{}, bounds},
		{number(-1), v3.Port{}, bounds},
		{number(65536), v3.Port{}, bounds},
		{number(65536 + 80), v3.Port{}, bounds},
		{text("0"), v3.Port{}, bounds},
		{text("-1"), v3.Port{}, bounds},
		{text("0:10"), v3.Port{}, bounds},
		{text("10:65536"), v3.Port{}, bounds},
		{text("-1:10"), v3.Port{}, bounds},
		{text("99999999999999999999"), v3.Port{}, bounds},
		{text("1:99999999999999999999"), v3.Port{}, bounds},
		{text("100:90"), v3.Port{}, order},
		{text("80:"), v3.Port{}, form},
		{text(":80"), v3.Port{}, form},
		{text("a:b"), v3.Port{}, form},
		{text("1:2:3"), v3.Port{}, form},
		{text("+80:+90"), v3.Port{}, form},
		{text("+80"), v3.Port{}, name},
		{text(""), v3.Port{}, name},
		{text("a b"), v3.Port{}, name},
		{text("é"), v3.Port{}, name},
		{text("http\n"), v3.Port{}, name},
		{text(long + "a"), v3.Port{}, name},
	} {
		have, err := v3.ParsePort(c.in)
		if have != c.want || (err == nil) != (c.reason == "") {
			t.Errorf("%q: %+v, %v; want %+v", c.in.String(), have, err, c.want)
		}
		if err != nil && !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%q: %q does not say %q", c.in.String(), err, c.reason)
		}
	}
}

// A port is a name or a range, never both and never neither, and a range that is written is read as it was.
func TestParsePortIsOneOrTheOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := text(rapid.StringMatching(`[-+:0-9a-c_. ]{0,8}`).Draw(t, "port"))
		p, err := v3.ParsePort(in)
		isName, isRange := p.Name != "", p.Min > 0 && p.Min <= p.Max
		if (err == nil) != (isName != isRange) {
			t.Fatalf("%q: %+v, %v", in.StrVal, p, err)
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		lo := rapid.Uint16Range(1, 65535).Draw(t, "min")
		hi := rapid.Uint16Range(lo, 65535).Draw(t, "max")
		p, err := v3.ParsePort(text(fmt.Sprintf("%d:%d", lo, hi)))
		if diff := cmp.Diff(v3.Port{Min: lo, Max: hi}, p); diff != "" || err != nil {
			t.Fatalf("%v\n%s", err, diff)
		}
	})
}

func TestRef(t *testing.T) {
	p := &v3.NetworkPolicy{}
	p.SetGroupVersionKind(v3.GroupVersion.WithKind("NetworkPolicy"))
	p.Namespace, p.Name = "ns1", "p"
	for _, c := range []struct {
		ref  v3.Ref
		want string
	}{
		{v3.Ref{Kind: "Tier", Name: "t"}, "Tier/t"},
		{v3.Ref{Kind: "NetworkPolicy", Namespace: "ns1", Name: "p"}, "NetworkPolicy/ns1/p"},
		{v3.RefOf(p), "NetworkPolicy/ns1/p"},
		{v3.Ref{Kind: v3.KindOf(schema.GroupVersionKind{Group: "networking.k8s.io", Version: "v1", Kind: "NetworkPolicy"}), Namespace: "ns1", Name: "p"},
			"KubernetesNetworkPolicy/ns1/p"},
		{v3.Ref{Kind: v3.KindOf(schema.GroupVersionKind{Group: "policy.networking.k8s.io", Version: "v1alpha2", Kind: "ClusterNetworkPolicy"}), Name: "p"},
			"KubernetesClusterNetworkPolicy/p"},
		{v3.Ref{Kind: v3.KindOf(schema.GroupVersionKind{Version: "v1", Kind: "Pod"}), Namespace: "ns1", Name: "p"}, "Pod/ns1/p"},
	} {
		if have := c.ref.String(); have != c.want {
			t.Errorf("%s, want %s", have, c.want)
		}
	}
	sorted := []v3.Ref{{Kind: "A", Name: "z"}, {Kind: "B", Name: "b"}, {Kind: "B", Namespace: "a", Name: "a"}, {Kind: "B", Namespace: "a", Name: "b"}, {Kind: "B", Namespace: "b", Name: "a"}}
	for i, a := range sorted {
		for j, b := range sorted {
			if have, want := a.Compare(b), max(-1, min(1, i-j)); have != want {
				t.Errorf("%s and %s: %d, want %d", a, b, have, want)
			}
		}
	}
}
