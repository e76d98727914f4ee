package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

func traceCommand() *cli.Command {
	return &cli.Command{
		Name: "trace", Usage: "say what happens to a packet, and why",
		UsageText: "tierctl trace [-f FILE] --from NS/POD|IP|NODE --to NS/POD|IP|NODE [--protocol TCP] [--port 80]\n   tierctl trace [-f FILE] --flows FILE -o json",
		Description: "Answers from the objects alone, of -f or else of the datastore: no packet is sent and no kernel is asked. Egress is judged\n" +
			"as on the source's node, ingress as on the destination's; with --node only what that node judges.\n" +
			"--flows reads one JSON object a line, {\"id\",\"from\",\"to\",\"protocol\",\"port\",\"srcPort\",\"icmpType\",\"icmpCode\"}, and\n" +
			"answers one a line, in order.",
		Flags: slices.Concat(fileFlags(), []cli.Flag{
			&cli.StringFlag{Name: "from", Usage: "`END` that sends: an address, namespace/name of a pod or workload endpoint, or a node"},
			&cli.StringFlag{Name: "to", Usage: "`END` that receives"},
			&cli.StringFlag{Name: "protocol", Usage: "`NAME` TCP, UDP, SCTP, UDPLite, ICMP or ICMPv6, or a number", Value: "TCP"},
			&cli.UintFlag{Name: "port", Usage: "destination `PORT`"},
			&cli.UintFlag{Name: "src-port", Usage: "source `PORT` (default: 49152)"},
			&cli.UintFlag{Name: "icmp-type", Usage: "`TYPE` (default: echo request)"},
			&cli.UintFlag{Name: "icmp-code", Usage: "`CODE`"},
			&cli.StringFlag{Name: "orig-to", Usage: "`END` to which it is sent, when a node translates that to --to: a service's address or a node's"},
			&cli.UintFlag{Name: "orig-port", Usage: "`PORT` to which it is sent then (default: --port)"},
			&cli.StringFlag{Name: "masquerade", Usage: "`END` whose address it has as its source from that node on"},
			&cli.StringFlag{Name: "via", Usage: "`NODE` that it passes on its way, and that translates it"},
			&cli.StringFlag{Name: "in-interface", Usage: "`NAME` of the interface by which it comes in, there or at its destination's node"},
			&cli.StringFlag{Name: "out-interface", Usage: "`NAME` of the interface by which it goes out, there or at its source's node"},
			&cli.StringFlag{Name: "flows", Usage: "`FILE` of flows, or - for standard input"},
			nodeFlag("judge as this `NODE` alone does"),
			endpointToHostFlag(), outputFlag("json"), datastoreFlag(),
		}),
		Action: trace,
	}
}

func trace(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "json")
	if err != nil {
		return err
	}
	flows := c.String("flows")
	ends := c.String("from") != "" && c.String("to") != ""
	switch {
	case flows == "" && !ends:
		return usagef("trace needs --from and --to, or --flows")
	case flows != "" && (c.String("from") != "" || c.String("to") != ""):
		return usagef("trace takes --from and --to, or --flows, and not both")
	}
	if flows == "-" && slices.Contains(c.StringSlice("filename"), "-") {
		return usagef("only one of -f and --flows can be standard input")
	}
	objs, err := objects(c)
	if err != nil {
		return err
	}
	t, err := newTracing(c, objs)
	if err != nil {
		return err
	}
	if flows != "" {
		return t.bulk(c, flows)
	}
	return t.single(c, format)
}

// tracing answers for flows from one plan.
type tracing struct {
	index *policy.Index
	plan  *policy.Plan
}

func newTracing(c *cli.Context, objs []client.Object) (*tracing, error) {
	x, err := index(c, c.String("node"), objs)
	if err != nil {
		return nil, err
	}
	return &tracing{x, planned(c, x)}, nil
}

func (t *tracing) single(c *cli.Context, format string) error {
	line, err := flowOfFlags(c)
	if err != nil {
		return err
	}
	f, err := t.index.Flow(*line)
	if err != nil {
		return err
	}
	result := t.plan.Trace(f)
	if format == "json" {
		return json.NewEncoder(c.App.Writer).Encode(verdictOnFlow(nil, &result))
	}
	return explain(c.App.Writer, f, &result)
}

func flowOfFlags(c *cli.Context) (*policy.FlowSpec, error) {
	for flag, most := range map[string]uint{"port": 65535, "src-port": 65535, "orig-port": 65535, "icmp-type": 255, "icmp-code": 255} {
		if v := c.Uint(flag); v > most {
			return nil, usagef("--%s %d is more than %d", flag, v, most)
		}
	}
	l := &policy.FlowSpec{From: c.String("from"), To: c.String("to"), Protocol: policy.ProtocolText(c.String("protocol")),
		Port: uint16(c.Uint("port")), SrcPort: uint16(c.Uint("src-port")), ICMPCode: uint8(c.Uint("icmp-code")),
		OrigTo: c.String("orig-to"), OrigPort: uint16(c.Uint("orig-port")), Masquerade: c.String("masquerade"),
		Via: c.String("via"), InIface: c.String("in-interface"), OutIface: c.String("out-interface")}
	if c.IsSet("icmp-type") {
		l.ICMPType = new(uint8)
		*l.ICMPType = uint8(c.Uint("icmp-type"))
	}
	return l, nil
}

// bulk answers flows as they come.
func (t *tracing) bulk(c *cli.Context, path string) error {
	in := c.App.Reader
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("reading flows: %w", err)
		}
		defer f.Close()
		in = f
	}
	out := bufio.NewWriter(c.App.Writer)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	scanner := bufio.NewScanner(in)
	scanner.Buffer(nil, 1<<20)
	bad := 0
	for n := 1; scanner.Scan(); n++ {
		if len(bytes.TrimSpace(scanner.Bytes())) == 0 {
			continue
		}
		result, id, err := t.line(scanner.Bytes())
		answer := verdictOnFlow(id, &result)
		if err != nil {
			bad++
			fmt.Fprintf(c.App.ErrWriter, "%s:%d: %v\n", path, n, err)
			answer.Verdict, answer.Error = "Error", err.Error()
		}
		if err := encoder.Encode(answer); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	if err := scanner.Err(); err != nil {
		out.Flush()
		return fmt.Errorf("reading flows: %w", err)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if bad > 0 {
		return fmt.Errorf("%d flows could not be traced", bad)
	}
	return nil
}

// flowLine is a line of --flows. The id is given back as it came.
type flowLine struct {
	ID json.RawMessage `json:"id"`
	policy.FlowSpec
}

func (t *tracing) line(text []byte) (policy.Trace, json.RawMessage, error) {
	var l flowLine
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&l); err != nil {
		return policy.Trace{}, l.ID, fmt.Errorf("not a flow: %w", err)
	}
	f, err := t.index.Flow(l.FlowSpec)
	if err != nil {
		return policy.Trace{}, l.ID, err
	}
	return t.plan.Trace(f), l.ID, nil
}

// flowVerdict is what trace -o json says of one flow.
type flowVerdict struct {
	ID      json.RawMessage `json:"id,omitempty"`
	Verdict string          `json:"verdict"` // Allow or Deny; Error for a line that is no flow
	Error   string          `json:"error,omitempty"`
	Egress  *endVerdict     `json:"egress,omitempty"`
	Ingress *endVerdict     `json:"ingress,omitempty"`
	Steps   []step          `json:"steps"`
	// Staged is the same if the staged policies were in force; absent when there are none.
	Staged *flowVerdict `json:"staged,omitempty"`
}

type endVerdict struct {
	Verdict  string `json:"verdict"`
	Endpoint string `json:"endpoint"`
	Stage    string `json:"stage,omitempty"` // untracked, preDNAT or forward
	Tier     string `json:"tier,omitempty"`
	Policy   string `json:"policy,omitempty"`
	Rule     *int   `json:"rule,omitempty"`
	Why      string `json:"why"`
}

type step struct {
	Endpoint  string `json:"endpoint"`
	Direction string `json:"direction"`
	Stage     string `json:"stage,omitempty"`
	Tier      string `json:"tier,omitempty"`
	Policy    string `json:"policy,omitempty"`
	Rule      *int   `json:"rule,omitempty"`
	Action    string `json:"action"`
	Why       string `json:"why"`
}

func verdictOnFlow(id json.RawMessage, t *policy.Trace) flowVerdict {
	v := verdictOf(id, &t.Outcome)
	if t.Staged != nil {
		staged := verdictOf(nil, t.Staged)
		v.Staged = &staged
	}
	return v
}

func verdictOf(id json.RawMessage, t *policy.Outcome) flowVerdict {
	v := flowVerdict{ID: id, Verdict: t.Verdict.String(), Egress: endVerdictOf(t.Egress), Ingress: endVerdictOf(t.Ingress), Steps: []step{}}
	for _, s := range t.Steps {
		v.Steps = append(v.Steps, step{refText(s.Endpoint), s.Direction.String(), stageText(s.Stage), s.Tier, refText(s.Policy), ruleIndex(s.Rule),
			s.Action.String(), s.Why})
	}
	return v
}

func endVerdictOf(j *policy.Judgement) *endVerdict {
	if j == nil {
		return nil
	}
	return &endVerdict{j.Verdict.String(), refText(j.Endpoint), stageText(j.Stage), j.Tier, refText(j.Policy), ruleIndex(j.Rule), j.Why}
}

// stageText is "" for the normal stage, which is the only one that most people know.
func stageText(s policy.Stage) string {
	if s == policy.Normal {
		return ""
	}
	return s.String()
}

func refText(r v3.Ref) string {
	if r == (v3.Ref{}) {
		return ""
	}
	return r.String()
}

func ruleIndex(i int) *int {
	if i < 0 {
		return nil
	}
	return &i
}

// explain is a trace for people: the packet, every step, and the verdict.
func explain(w io.Writer, f policy.Flow, t *policy.Trace) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", flowText(f))
	explainOutcome(&b, w, &t.Outcome)
	if t.Staged != nil {
		b.WriteString("If the staged policies were in force:\n")
		explainOutcome(&b, w, t.Staged)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// explainOutcome writes to b what is for w.
func explainOutcome(b *strings.Builder, w io.Writer, t *policy.Outcome) {
	for _, s := range t.Steps {
		words := []string{s.Direction.String()}
		if s.Endpoint != (v3.Ref{}) {
			words = append(words, s.Endpoint.String())
		}
		if s.Stage != policy.Normal {
			words = append(words, s.Stage.String())
		}
		if s.Tier != "" {
			words = append(words, "tier "+s.Tier)
		}
		if s.Policy != (v3.Ref{}) {
			words = append(words, s.Policy.String())
		}
		action := s.Action.String()
		if s.Action == policy.None {
			action = "-"
		}
		fmt.Fprintf(b, "  %s %s: %s\n", paintVerdict(w, fmt.Sprintf("%-5s", action)), strings.Join(words, ", "), s.Why)
	}
	if len(t.Steps) == 0 {
		b.WriteString("        no policy guards either end\n")
	}
	fmt.Fprintf(b, "%s\n", paintVerdict(w, t.Verdict.String()))
}

func flowText(f policy.Flow) string {
	text := fmt.Sprintf("%s from %s to %s", policy.ProtoName(f.Proto), f.Src, f.Dst)
	switch {
	case policy.HasPorts(f.Proto):
		text += fmt.Sprintf(" port %d (from port %d)", f.DstPort, f.SrcPort)
	case f.Proto == policy.ProtoICMP || f.Proto == policy.ProtoICMPv6:
		text += fmt.Sprintf(" type %d code %d", f.ICMPType, f.ICMPCode)
	}
	return text
}
