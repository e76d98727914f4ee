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
		{[]string{"-f", good, "--flows", file("f4", `{"from":"a/one","to":"a/two","port":80,"expect":"allowed"}`)}, `f4:1: expect: "allowed" is neither`},
		{[]string{"-f", good, "--flows", file("f5", `{"from":"a/one","to":"a/two","port":80,"expect":true}`)}, `f5:1: expect: true is neither`},
		{[]string{"-f", good, "--flows", flow, "--setup", filepath.Join(dir, "none")}, "reading the setup"},
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

// What a flow expects is its answer: Deny has come true when nobody is answered. What was not sent has not come true.
func TestDifferences(t *testing.T) {
	untracked, failsafe := `[{"stage":"untracked","action":"Allow"}]`, `[{"stage":"preDNAT","action":"Allow"},{"action":"Allow"}]`
	for _, c := range []struct {
		trace, steps string
		expect, seen lab.Observation
		want         string
	}{
		{"Allow", failsafe, lab.Arrived, lab.Arrived, ""},
		{"Deny", failsafe, lab.Lost, lab.Lost, ""},
		{"Allow", failsafe, lab.Lost, lab.Arrived, "it expects Deny"},
		{"Deny", failsafe, lab.Arrived, lab.Lost, "it expects Allow"},
		{"Deny", failsafe, lab.Arrived, lab.Arrived, "trace says Deny"},
		{"Allow", failsafe, lab.Arrived, lab.Lost, "trace says Allow, it expects Allow"},
		{"Allow", failsafe, lab.Lost, lab.Unanswered, "trace says Allow"},
		{"Allow", untracked, lab.Lost, lab.Unanswered, ""},
		{"Allow", untracked, lab.Arrived, lab.Unanswered, "it expects Allow"},
		{"Deny", untracked, lab.Lost, lab.Unanswered, "trace says Deny"},
		{"Allow", failsafe, lab.Arrived, lab.Unsent, "it expects Allow"},
		{"Allow", failsafe, lab.Lost, lab.Unsent, "it expects Deny"},
	} {
		r := &replay{expects: map[int]lab.Observation{0: c.expect},
			verdicts: []map[string]json.RawMessage{{"verdict": json.RawMessage(`"` + c.trace + `"`), "steps": json.RawMessage(c.steps)}}}
		if have := strings.Join(r.differences(0, c.seen), ", "); have != c.want {
			t.Errorf("%+v: %q", c, have)
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

// judged is a replay of flows with a setup in a cluster of two pods, and the lines that it prints.
func judged(t *testing.T, objects, flows, setup string) (lines []string, errs string, err error) {
	t.Helper()
	needNamespaces(t)
	dir := t.TempDir()
	r := &replay{files: files{"-"}, in: strings.NewReader(objects), action: "Accept", tierctl: buildTierctl(t), say: t.Logf,
		flows: filepath.Join(dir, "flows"), setup: filepath.Join(dir, "setup")}
	fatal(t, os.WriteFile(r.flows, []byte(flows), 0o600))
	fatal(t, os.WriteFile(r.setup, []byte(setup), 0o600))
	var out, complaints bytes.Buffer
	err = r.run(t.Context(), &out, &complaints)
	return strings.Split(strings.TrimSpace(out.String()), "\n"), complaints.String(), err
}

const nodes = `
---
apiVersion: v1
kind: Namespace
metadata: {name: a}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
`

// The setup is done before anything is sent, on the nodes that it names: what it translates arrives, and what it drops does not,
// which trace cannot know.
func TestSetup(t *testing.T) {
	lines, errs, err := judged(t, objects+nodes, `{"from":"a/one","to":"a/two","port":80,"origTo":"10.96.0.1","origPort":8080,"expect":"Allow"}
{"from":"n2","to":"a/one","port":80,"origTo":"10.96.0.1","origPort":8080,"expect":"Deny"}
{"from":"a/one","to":"a/two","port":81,"expect":"Deny"}
{"from":"a/two","to":"a/one","port":81,"expect":"Allow"}
`, `
# a service, of n1 alone
n1: nft 'table ip nat { chain in { type nat hook prerouting priority dstnat; ip daddr 10.96.0.1 tcp dport 8080 dnat to 10.0.1.1:80; }; }'
 n2 :  nft add table ip firewall && nft 'add chain ip firewall forward { type filter hook forward priority 0; }'
n2: nft add rule ip firewall forward tcp dport 81 ip daddr 10.0.1.1 drop
`)
	var d differs
	if !errors.As(err, &d) || d != 2 {
		t.Errorf("%v\n%s", err, errs)
	}
	for i, want := range []string{"Allow", "Deny", "Deny", "Allow"} { // which is what they expect, too
		if i >= len(lines) || !strings.Contains(lines[i], `"observed":"`+want+`"`) || !strings.Contains(lines[i], `"expect":"`+want+`"`) {
			t.Errorf("flow %d: want %s in %v", i, want, lines)
		}
	}
	for _, want := range []string{"flow 1 ", "flow 2 ", "trace says Allow, seen Deny"} {
		if !strings.Contains(errs, want) {
			t.Errorf("want %q in\n%s", want, errs)
		}
	}
}

// A setup that cannot be read or done ends the run, with its line.
func TestBadSetup(t *testing.T) {
	for _, c := range []struct{ setup, want string }{
		{"n1 true\n", `setup:1: "n1 true" is not NODE: COMMAND`},
		{"\n# n1: true\nn1:\n", `setup:3: "n1:" is not NODE: COMMAND`},
		{"n1: true\nn3: true\n", `setup:2: no object is on node "n3"`},
		{"n1: true\nn2: echo why; exit 3\nn1: true\n", "setup:2: on node n2: echo why; exit 3: exit status 3\nwhy"},
	} {
		lines, _, err := judged(t, objects+nodes, `{"from":"a/one","to":"a/two","port":80}`, c.setup)
		if d := differs(0); err == nil || errors.As(err, &d) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.setup, err, c.want)
		}
		if lines[0] != "" {
			t.Errorf("%q: %v", c.setup, lines)
		}
	}
}

const untracked = nodes + `
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n1, labels: {role: node}}
spec: {node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: early}
spec:
  doNotTrack: true
  applyOnForward: true
  selector: role == 'node'
  ingress:
  - {action: Allow, protocol: UDP, destination: {ports: [53, 54]}}
  egress:
  - {action: Allow, protocol: UDP, source: {ports: [54]}}
`

// An untracked packet whose answer is refused has arrived, as trace says; who expects that it works is told that it does not.
func TestUntrackedAnswers(t *testing.T) {
	lines, errs, err := judged(t, objects+untracked, `{"from":"n2","to":"n1","protocol":"UDP","port":53}
{"from":"n2","to":"n1","protocol":"UDP","port":53,"expect":"Deny"}
{"from":"n2","to":"n1","protocol":"UDP","port":53,"expect":"Allow"}
{"from":"n2","to":"n1","protocol":"UDP","port":54,"expect":"Allow"}
`, "")
	var d differs
	if !errors.As(err, &d) || d != 1 || !strings.Contains(errs, "flow 2 ") || !strings.Contains(errs, ": it expects Allow, seen Unanswered") {
		t.Errorf("%v\n%s", err, errs)
	}
	for i, unanswered := range []bool{true, true, true, false} {
		if i >= len(lines) || strings.Contains(lines[i], `"answered":false`) != unanswered || !strings.Contains(lines[i], `"observed":"Allow"`) {
			t.Errorf("flow %d: answered is %v in %v", i, !unanswered, lines)
		}
	}
}
