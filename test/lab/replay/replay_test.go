package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/lab"
)

const objects = `
apiVersion: v1
kind: Pod
metadata: {namespace: a, name: one}
spec: {nodeName: n1, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: a, name: two}
spec: {nodeName: n2, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.0.1.1}]}
`

// What is wrong with the input is said with its place, and nothing is sent.
func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, flow := file("good.yaml", objects), file("flow", `{"from":"a/one","to":"a/two","port":80}`)
	bad := file("bad.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: x, colour: red}\n")
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "usage: replay"},
		{[]string{"-f", good}, "usage: replay"},
		{[]string{"-f", good, "--flows", flow, "more"}, "usage: replay"},
		{[]string{"-f", "-", "--flows", "-"}, "cannot both come from standard input"},
		{[]string{"-f", filepath.Join(dir, "none"), "--flows", flow}, "none:1:1"},
		{[]string{"-f", bad, "--flows", flow}, "bad.yaml:"},
		{[]string{"-f", good, "--flows", filepath.Join(dir, "none")}, "reading flows"},
		{[]string{"-f", good, "--flows", file("f1", "\n{\n")}, "f1:2: not a flow"},
		{[]string{"-f", good, "--flows", file("f2", `{"from":"a/three","to":"a/two","port":80}`)}, "f2:1: from"},
		{[]string{"-f", good, "--flows", file("f3", `{"from":"a/one","to":"a/two"}`)}, "f3:1: port"},
		{[]string{"-f", good, "--flows", flow, "--tierctl", filepath.Join(dir, "none")}, "tierctl trace"},
	} {
		if noNamespaces != nil && !strings.HasPrefix(c.want, "usage") {
			continue // what is wrong with the machine is said first; other tests say that it is
		}
		var out, errs bytes.Buffer
		err := run(t.Context(), c.args, &out, &errs)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.args, err, c.want)
		}
		if out.Len() > 0 {
			t.Errorf("%v: %s", c.args, out.String())
		}
	}
	if err := run(t.Context(), []string{"-h"}, &bytes.Buffer{}, &bytes.Buffer{}); !errors.Is(err, flag.ErrHelp) {
		t.Error(err)
	}
}

// reading is a replay that has read its input but asked nobody.
func reading(t *testing.T, in, flows string) (*replay, lab.Cluster) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "flows")
	if err := os.WriteFile(path, []byte(flows), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &replay{files: files{"-"}, flows: path, in: strings.NewReader(in)}
	c, err := r.read()
	if err != nil {
		t.Fatal(err)
	}
	return r, c
}

// Each flow gets a source port of its own, that trace is told of, unless it has named one or has none.
func TestRead(t *testing.T) {
	r, c := reading(t, objects, `{"id":"1","from":"a/one","to":"a/two","port":80}

{"id":"2","from":"a/one","to":"a/two","port":80,"srcPort":7}
{"id":"3","from":"a/one","to":"a/two","protocol":"ICMP"}
{"id":"4","from":"a/one","to":"203.0.113.5","port":80}
`)
	if len(c.Nodes) != 2 || len(c.Workloads) != 2 || len(c.Outside) != 1 {
		t.Errorf("%+v", c)
	}
	ports := map[uint16]bool{}
	for i, f := range r.packets {
		if policy.HasPorts(f.Proto) != (f.SrcPort != 0) {
			t.Errorf("flow %d: source port %d", i, f.SrcPort)
		}
		if told := string(r.lines[i]["srcPort"]); f.SrcPort != 0 && told != strconv.Itoa(int(f.SrcPort)) {
			t.Errorf("flow %d: trace is told %q of %d", i, told, f.SrcPort)
		}
		ports[f.SrcPort] = true
	}
	if len(r.packets) != 4 || len(ports) != 4 || r.packets[1].SrcPort != 7 {
		t.Errorf("%+v", r.packets)
	}
	if r.stdin != objects {
		t.Error("tierctl would read something else from standard input")
	}
}

// What differs from trace is counted and named, and a flow whose answer was lost differs from either verdict.
func TestPrint(t *testing.T) {
	for _, c := range []struct {
		trace string
		seen  lab.Observation
		line  string
		errs  string
	}{
		{"Allow", lab.Arrived, `{"observed":"Allow","verdict":"Allow"}`, ""},
		{"Deny", lab.Lost, `{"observed":"Deny","verdict":"Deny"}`, ""},
		{"Allow", lab.Lost, `{"observed":"Deny","verdict":"Allow"}`, `replay: flow 0 {"id":"7"}: trace says Allow, seen Deny`},
		{"Deny", lab.Arrived, `{"observed":"Allow","verdict":"Deny"}`, `replay: flow 0 {"id":"7"}: trace says Deny, seen Allow`},
		{"Allow", lab.Unanswered, `{"answered":false,"observed":"Allow","verdict":"Allow"}`, `trace says Allow, seen Unanswered`},
		{"Deny", lab.Unanswered, `{"answered":false,"observed":"Allow","verdict":"Deny"}`, `trace says Deny, seen Unanswered`},
		{"Deny", lab.Unsent, `{"observed":"Unsent","verdict":"Deny"}`, `1 flows were not sent`},
	} {
		r := &replay{
			lines:    []map[string]json.RawMessage{{"id": json.RawMessage(`"7"`)}},
			verdicts: []map[string]json.RawMessage{{"verdict": json.RawMessage(`"` + c.trace + `"`)}},
		}
		var out, errs bytes.Buffer
		err := r.print([]lab.Observation{c.seen}, &out, &errs)
		var d differs
		if wrong := c.errs != "" && c.seen != lab.Unsent; errors.As(err, &d) != wrong || wrong && (d != 1 || d.Status() != 1) {
			t.Errorf("%s, %s: %v", c.trace, c.seen, err)
		}
		if strings.TrimSpace(out.String()) != c.line || !strings.Contains(errs.String(), c.errs) || c.errs == "" && errs.Len() > 0 {
			t.Errorf("%s, %s:\n%s%s", c.trace, c.seen, out.String(), errs.String())
		}
	}
}

// A run that is interrupted says that alone, and leaves nothing.
func TestInterrupted(t *testing.T) {
	needNamespaces(t)
	t.Setenv("TMPDIR", t.TempDir())
	tierctl := buildTierctl(t)
	flows := filepath.Join(t.TempDir(), "flows")
	if err := os.WriteFile(flows, []byte(`{"from":"a/one","to":"a/two","port":80}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, when := range []func(*replay, context.CancelFunc){
		func(r *replay, stop context.CancelFunc) { stop() },
		func(r *replay, stop context.CancelFunc) { r.say = func(string, ...any) { stop() } },
	} {
		ctx, stop := context.WithCancel(t.Context())
		r := &replay{files: files{"-"}, flows: flows, tierctl: tierctl, action: "Drop", in: strings.NewReader(objects)}
		when(r, stop)
		if err := r.run(ctx, &bytes.Buffer{}, &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		left, err := filepath.Glob(filepath.Join(os.TempDir(), "tierwall-*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}
