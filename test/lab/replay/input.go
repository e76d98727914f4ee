package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/lab"
)

// read takes in objects, flows and the setup, and gives every flow that has ports a source port of its own.
func (r *replay) read() (c lab.Cluster, err error) {
	if slices.Contains(r.files, "-") {
		text, err := io.ReadAll(r.in)
		if err != nil {
			return c, fmt.Errorf("reading objects from standard input: %w", err)
		}
		r.stdin = string(text)
	}
	index := policy.NewIndex("", policy.Options{})
	for _, d := range store.Read(r.files, store.ReadOptions{Stdin: strings.NewReader(r.stdin)}) {
		for _, e := range d.Errors {
			err = errors.Join(err, fmt.Errorf("%s:%d:%d: %s: %s", d.File, e.Line, e.Column, e.Field, e.Message))
		}
		if d.Object != nil {
			_ = index.Set(d.Object) // what cannot be enforced is what the agents and trace say about it
		}
	}
	if err != nil {
		return c, err
	}
	text, err := r.flowsText()
	if err != nil {
		return c, fmt.Errorf("reading flows: %w", err)
	}
	for n, line := range strings.Split(string(text), "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		if err := r.flow(index, line); err != nil {
			return c, fmt.Errorf("%s:%d: %w", r.flows, n+1, err)
		}
	}
	c = lab.ClusterOf(index.Plan(), r.packets)
	return c, r.readSetup(c)
}

func (r *replay) flowsText() ([]byte, error) {
	if r.flows == "-" {
		return io.ReadAll(r.in)
	}
	return os.ReadFile(r.flows)
}

const firstPort, ports = 49152, 16384 // those that clients take

func (r *replay) flow(index *policy.Index, line string) error {
	var spec policy.FlowSpec
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(line), &spec); err != nil {
		return fmt.Errorf("not a flow: %w", err)
	}
	if err := json.Unmarshal([]byte(line), &fields); err != nil {
		return fmt.Errorf("not a flow: %w", err)
	}
	f, err := index.Flow(spec)
	if err != nil {
		return err
	}
	if err := r.expect(len(r.packets), fields); err != nil {
		return err
	}
	if policy.HasPorts(f.Proto) && spec.SrcPort == 0 {
		f.SrcPort = uint16(firstPort + len(r.packets)%ports)
		fields["srcPort"] = fmt.Appendf(nil, "%d", f.SrcPort)
	}
	r.packets, r.lines = append(r.packets, f), append(r.lines, fields)
	return nil
}

var expectations = map[string]lab.Observation{`"Allow"`: lab.Arrived, `"Deny"`: lab.Lost}

// expect takes what a flow expects out of its fields: trace has none such.
func (r *replay) expect(i int, fields map[string]json.RawMessage) error {
	text, ok := fields["expect"]
	if !ok {
		return nil
	}
	delete(fields, "expect")
	o, known := expectations[string(text)]
	if !known {
		return fmt.Errorf("expect: %s is neither \"Allow\" nor \"Deny\"", text)
	}
	if r.expects == nil {
		r.expects = map[int]lab.Observation{}
	}
	r.expects[i] = o
	return nil
}
