package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/lab"
)

// differences are what was said of a flow and has not come true. What is not answered differs from either verdict of trace,
// unless it went untracked.
func (r *replay) differences(i int, o lab.Observation) (out []string) {
	switch trace := r.traced(i); {
	case o == lab.Unsent, o.String() == trace:
	case o == lab.Unanswered && trace == "Allow" && r.untracked(i):
	default:
		out = append(out, "trace says "+trace)
	}
	want, ok := r.expects[i]
	if nobody := want == lab.Lost && o == lab.Unanswered; ok && o != want && !nobody {
		out = append(out, "it expects "+want.String())
	}
	return out
}

// untracked tells whether an untracked policy lets a flow through, by what trace says.
func (r *replay) untracked(i int) bool {
	var steps []struct{ Stage, Action string }
	if err := json.Unmarshal(r.verdicts[i]["steps"], &steps); err != nil {
		return false // nothing says so
	}
	for _, s := range steps {
		if s.Stage == policy.Untracked.String() && s.Action == policy.Allow.String() {
			return true
		}
	}
	return false
}

// observed is Allow for a packet that has come where it was sent, answered or not.
func observed(o lab.Observation) string {
	if o == lab.Unanswered {
		o = lab.Arrived
	}
	return o.String()
}

func (r *replay) traced(i int) string { return strings.Trim(string(r.verdicts[i]["verdict"]), `"`) }

func (r *replay) print(seen []lab.Observation, out, errs io.Writer) error {
	bad, unsent := 0, 0
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	for i, o := range seen {
		v := r.verdicts[i]
		v["observed"] = fmt.Appendf(nil, "%q", observed(o))
		if want, ok := r.expects[i]; ok {
			v["expect"] = fmt.Appendf(nil, "%q", want)
		}
		if o == lab.Unanswered {
			v["answered"] = json.RawMessage("false")
		}
		if o == lab.Unsent {
			unsent++
		}
		if said := r.differences(i, o); len(said) > 0 {
			bad++
			fmt.Fprintf(errs, "replay: flow %d %s: %s, seen %s\n", i, mustText(r.lines[i]), strings.Join(said, ", "), o)
		}
		if err := encoder.Encode(v); err != nil {
			return err
		}
	}
	if unsent > 0 {
		fmt.Fprintf(errs, "replay: %d flows were not sent, for no flow begins with such a packet, "+
			"nobody can have such an address, or no node has such an interface\n", unsent)
	}
	if bad > 0 {
		return differs(bad)
	}
	return nil
}

func mustText(line map[string]json.RawMessage) string {
	text, err := json.Marshal(line)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
