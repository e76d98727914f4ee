// Package scenario reads the corpus of test/scenarios, and makes random clusters. A scenario is one txtar file that a person
// wrote: what is in the cluster, and what must become of each flow and why. Its verdicts come from the contract, never from
// running the code.
package scenario

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// Scenario is one file.
//
//	what it shows, and the source of its verdicts
//	-- cluster --        who is there, a line each, see cluster.go
//	-- objects.yaml --   policies and what else has no short form, as users write them
//	-- options --        defaultEndpointToHostAction: Accept
//	-- complaints --     Kind/namespace/name of the objects that the index complains about, a line each
//	-- flows --          FROM > TO PROTOCOL [PORT] [WORD VALUE …] : VERDICT [DIRECTION TIER POLICY RULE] [staged VERDICT]
//	                     the words: from PORT, type N, code N, via NODE, in IFACE, out IFACE, sent-to ADDRESS|ADDRESS:PORT
//	                     (before destination NAT, by via or else by the first node), masqueraded ADDRESS
//	-- plan.NODE --      optional: the node's plan; rewritten by -update
//	-- table.NODE --     optional: the node's table; rewritten by -update
type Scenario struct {
	Name, Comment string
	Objects       []client.Object
	Options       policy.Options
	Complaints    []string
	Flows         []Flow
	Plans, Tables map[string]string // by node

	path    string
	archive *txtar.Archive
}

// Flow is a line of flows.
type Flow struct {
	Line    int
	Text    string
	Spec    policy.FlowSpec
	Verdict policy.Action
	Staged  policy.Action // with the staged policies; None when the scenario does not say
	By      []string      // DIRECTION TIER POLICY RULE of what decided, "-" where there is none; nil when the scenario does not say
}

// Load reads every scenario of a folder.
func Load(dir string) ([]Scenario, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil {
		return nil, err
	}
	var out []Scenario
	for _, path := range paths {
		s, err := load(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, *s)
	}
	return out, nil
}

func load(path string) (*Scenario, error) {
	archive, err := txtar.ParseFile(path)
	if err != nil {
		return nil, err
	}
	s := &Scenario{Name: strings.TrimSuffix(filepath.Base(path), ".txtar"), Comment: string(archive.Comment),
		Plans: map[string]string{}, Tables: map[string]string{}, path: path, archive: archive}
	for _, f := range archive.Files {
		if err := s.section(f.Name, string(f.Data)); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	if s.Comment == "" || len(s.Objects) == 0 || len(s.Flows) == 0 {
		return nil, fmt.Errorf("a scenario has a comment, objects and flows")
	}
	return s, nil
}

func (s *Scenario) section(name, text string) error {
	for prefix, texts := range map[string]map[string]string{"plan.": s.Plans, "table.": s.Tables} {
		if node, ok := strings.CutPrefix(name, prefix); ok {
			texts[node] = text
			return nil
		}
	}
	switch {
	case name == "cluster":
		objs, err := Short(text)
		s.Objects = append(s.Objects, objs...)
		return err
	case name == "objects.yaml":
		return s.objects(text)
	case name == "complaints":
		s.Complaints = strings.Fields(text)
		return nil
	case name == "options":
		return s.options(text)
	case name == "flows":
		return s.flows(text)
	}
	return fmt.Errorf("no such section")
}

func (s *Scenario) objects(text string) error {
	for _, d := range store.Read([]string{"-"}, store.ReadOptions{Stdin: strings.NewReader(text)}) {
		for _, e := range d.Errors {
			return fmt.Errorf("line %d: %s %s: %s", e.Line, d.Name, e.Field, e.Message)
		}
		s.Objects = append(s.Objects, d.Object)
	}
	return nil
}

func (s *Scenario) options(text string) error {
	key, value, _ := strings.Cut(strings.TrimSpace(text), ": ")
	if _, ok := policy.ToHostActions[strings.ToLower(value)]; key != "defaultEndpointToHostAction" || !ok {
		return fmt.Errorf("unknown option %q", text)
	}
	s.Options.Felix.DefaultEndpointToHostAction = &value
	return nil
}

func (s *Scenario) flows(text string) (err error) {
	s.Flows, err = ParseFlows(text)
	return err
}

// ParseFlows reads lines of flows; empty ones and those that begin with # say nothing.
func ParseFlows(text string) (out []Flow, err error) {
	for i, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f, err := parseFlow(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		f.Line = i + 1
		out = append(out, f)
	}
	return out, nil
}

var verdicts = map[string]policy.Action{"Allow": policy.Allow, "Deny": policy.Deny}

func parseFlow(line string) (f Flow, err error) {
	f.Text = line
	packet, expected, _ := strings.Cut(line, " : ")
	expected, staged, hasStaged := strings.Cut(expected, " staged ")
	words, wants := strings.Fields(packet), strings.Fields(expected)
	if len(words) < 4 || words[1] != ">" || len(wants) != 1 && len(wants) != 5 {
		return f, fmt.Errorf("%q is not FROM > TO PROTOCOL … : VERDICT [DIRECTION TIER POLICY RULE]", line)
	}
	var ok bool
	if f.Verdict, ok = verdicts[wants[0]]; !ok {
		return f, fmt.Errorf("verdict %q is neither Allow nor Deny", wants[0])
	}
	if f.Staged, ok = verdicts[staged]; hasStaged && !ok {
		return f, fmt.Errorf("staged verdict %q is neither Allow nor Deny", staged)
	}
	f.By = wants[1:]
	if len(f.By) > 0 && f.By[0] != "ingress" && f.By[0] != "egress" {
		return f, fmt.Errorf("direction %q is neither ingress nor egress", f.By[0])
	}
	f.Spec = policy.FlowSpec{From: words[0], To: words[2], Protocol: policy.ProtocolText(words[3])}
	return f, f.words(words[4:])
}

// words reads what comes behind the protocol: a port, and words with their values.
func (f *Flow) words(words []string) error {
	for len(words) > 0 {
		name := "port"
		if _, err := strconv.Atoi(words[0]); err != nil {
			name, words = words[0], words[1:]
		}
		if len(words) == 0 {
			return fmt.Errorf("%s needs a value", name)
		}
		if err := f.word(name, words[0]); err != nil {
			return err
		}
		words = words[1:]
	}
	return nil
}

func (f *Flow) word(name, value string) error {
	switch name {
	case "via":
		f.Spec.Via = value
	case "in":
		f.Spec.InIface = value
	case "out":
		f.Spec.OutIface = value
	case "masqueraded":
		f.Spec.Masquerade = value
	case "sent-to":
		return f.sentTo(value)
	default:
		return f.number(name, value)
	}
	return nil
}

func (f *Flow) sentTo(value string) error {
	f.Spec.OrigTo = value
	if p, err := netip.ParseAddrPort(value); err == nil {
		f.Spec.OrigTo, f.Spec.OrigPort = p.Addr().String(), p.Port()
	}
	return nil
}

func (f *Flow) number(name, value string) error {
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil {
		return fmt.Errorf("%s %q is no number", name, value)
	}
	switch name {
	case "port":
		f.Spec.Port = uint16(n)
	case "from":
		f.Spec.SrcPort = uint16(n)
	case "type":
		icmpType := uint8(n)
		f.Spec.ICMPType = &icmpType
	case "code":
		f.Spec.ICMPCode = uint8(n)
	default:
		return fmt.Errorf("%q is no word of a flow", name)
	}
	return nil
}

// Index takes in the scenario's objects, for one node or for all.
func (s *Scenario) Index(node string) (*policy.Index, error) {
	x := policy.NewIndex(node, s.Options)
	for _, o := range s.Objects {
		err := x.Set(o)
		ref := v3.RefOf(o.(v3.Object)).String()
		switch expected := slices.Contains(s.Complaints, ref); {
		case !policy.OnlyNotices(err) && !expected:
			return nil, err
		case err == nil && expected:
			return nil, fmt.Errorf("nothing is said about %s", ref)
		}
	}
	return x, nil
}

// Update rewrites the file's plans or tables: prefix is "plan." or "table.", texts are by node.
func (s *Scenario) Update(prefix string, texts map[string]string) error {
	for i, f := range s.archive.Files {
		if node, ok := strings.CutPrefix(f.Name, prefix); ok {
			s.archive.Files[i].Data = []byte(texts[node])
		}
	}
	return os.WriteFile(s.path, txtar.Format(s.archive), 0o644)
}
