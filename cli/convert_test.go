package main

import (
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/test/scenario"
)

// What is converted is judged by its packets, whatever made it: one more that passes is never right, and one less only where something was left out.
func TestConversionIsProved(t *testing.T) {
	pods, err := scenario.Short("namespace a\npod a/x n1 10.0.0.1\npod a/y n1 10.0.0.2\n")
	if err != nil {
		t.Fatal(err)
	}
	var open []v3.Object
	for _, o := range pods {
		open = append(open, o.(v3.Object))
	}
	deny := &v3.NetworkPolicy{}
	deny.APIVersion, deny.Kind, deny.Namespace, deny.Name = v3.GroupVersion.String(), "NetworkPolicy", "a", "deny"
	v3.Default(deny)
	closed := append(open[:len(open):len(open)], deny)
	for name, c := range map[string]struct {
		conversion
		wrong string
	}{
		"the same":                 {conversion{before: closed, after: closed}, ""},
		"more passes":              {conversion{before: closed, after: open, narrower: true}, "decides otherwise"},
		"less passes":              {conversion{before: open, after: closed}, "decides otherwise"},
		"less passes, as was said": {conversion{before: open, after: closed, narrower: true}, ""},
	} {
		var said strings.Builder
		err := c.proved(cli.NewContext(&cli.App{ErrWriter: &said}, nil, nil))
		if (err != nil) != (c.wrong != "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: %v\n%s", name, err, said.String())
		}
	}
	for text, want := range map[string]bool{"TCP 0": true, "IPv4: none | IPv6: TCP 0; UDP 0": true, "TCP 0-79": false, "IPv4: TCP 80 | IPv6: TCP 0": false, "all": false} {
		if portZero.MatchString(text) != want {
			t.Errorf("%s: %t", text, !want)
		}
	}
}
