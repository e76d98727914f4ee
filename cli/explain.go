package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/urfave/cli/v2"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/lint"
	"github.com/tierwall/tierwall/dataplane/policy"
)

func explainCommand() *cli.Command {
	flags := func(more ...cli.Flag) []cli.Flag {
		return slices.Concat(fileFlags(), more, []cli.Flag{endpointToHostFlag(), outputFlag("json, yaml (default: text)"), datastoreFlag()})
	}
	return &cli.Command{
		Name: "explain", Usage: "say what guards an endpoint, or whom a policy is for and what it does", UsageText: "tierctl explain endpoint|policy NAME [-f FILE]",
		Subcommands: []*cli.Command{
			{Name: "endpoint", Usage: "every policy that applies to an endpoint, in the order in which it is asked",
				UsageText: "tierctl explain endpoint NAMESPACE/POD|HOSTENDPOINT [-f FILE] [--direction ingress|egress]",
				Flags:     flags(&cli.StringFlag{Name: "direction", Usage: "only this `DIRECTION`: ingress or egress"}),
				Action:    explainEndpoint},
			{Name: "policy", Usage: "whom a policy selects, where it stands, and what its rules do",
				UsageText: "tierctl explain policy KIND/[NAMESPACE/]NAME [-f FILE]\n   tierctl explain policy KIND NAME [-n NAMESPACE]",
				Flags:     flags(), Action: explainPolicy},
		},
	}
}

// explaining is all objects, and what comes of them.
type explaining struct {
	index   *policy.Index
	plan    *policy.Plan
	ranks   []policy.Rank
	objects map[v3.Ref]client.Object
	holders map[netip.Addr]v3.Ref // of addresses
}

func newExplaining(c *cli.Context) (*explaining, error) {
	objs, err := objects(c)
	if err != nil {
		return nil, err
	}
	options, err := policyOptions(c)
	if err != nil {
		return nil, err
	}
	x := &explaining{index: policy.NewIndex("", options), objects: map[v3.Ref]client.Object{}, holders: map[netip.Addr]v3.Ref{}}
	for _, o := range objs {
		_ = x.index.Set(o) // what is wrong with one that is asked about is said there
		x.objects[v3.RefOf(o.(v3.Object))] = o
	}
	x.plan, x.ranks = x.index.Plan(), x.index.Ranks()
	for _, e := range x.plan.Endpoints {
		for _, a := range e.Addrs {
			x.holders[a] = e.Ref
		}
	}
	return x, nil
}

// The explanation of an endpoint, as -o json prints it.
type (
	endpointExplained struct {
		Endpoint   string            `json:"endpoint"`
		Node       string            `json:"node"`
		Interfaces []string          `json:"interfaces,omitempty"`
		Addresses  []netip.Addr      `json:"addresses"`
		Labels     map[string]string `json:"labels"` // that some selector asks about
		Guards     []guardExplained  `json:"guards"`
		Notes      []string          `json:"notes,omitempty"`
	}
	guardExplained struct {
		Stage     string          `json:"stage"`
		Direction string          `json:"direction"`
		Before    []string        `json:"before,omitempty"` // what is decided whatever policy says
		Tiers     []tierExplained `json:"tiers"`
		Then      []string        `json:"then"` // behind the last tier
	}
	tierExplained struct {
		Tier       string            `json:"tier"`
		Order      *float64          `json:"order,omitempty"`
		Default    string            `json:"default"`
		StagedOnly bool              `json:"stagedOnly,omitempty"` // so it is skipped
		Policies   []policyExplained `json:"policies"`
	}
	policyExplained struct {
		Policy   string          `json:"policy"`
		Order    *float64        `json:"order,omitempty"` // none: last
		Staged   bool            `json:"staged,omitempty"`
		Goes     bool            `json:"goes,omitempty"` // it would not be there if the staged policies were in force
		Selector string          `json:"selector"`
		Labels   []string        `json:"labels,omitempty"` // of the endpoint, that the selector asks about
		Rules    []ruleExplained `json:"rules"`
	}
	ruleExplained struct {
		Rule   int      `json:"rule"`
		Name   string   `json:"name,omitempty"`
		Action string   `json:"action"`
		Text   string   `json:"text"`
		From   *peers   `json:"from,omitempty"`
		To     *peers   `json:"to,omitempty"`
		Notes  []string `json:"notes,omitempty"`
	}
	// peers are whom selectors and services of one end of a rule find now.
	peers struct {
		Count   int      `json:"count"`
		Members []string `json:"members"`
	}
)

func explainEndpoint(c *cli.Context) error {
	format, err := output(c, "json", "yaml")
	if err != nil {
		return err
	}
	only := c.String("direction")
	switch {
	case c.NArg() != 1:
		return usagef("explain endpoint takes one NAMESPACE/POD or the name of a host endpoint, but %d were given", c.NArg())
	case only != "" && only != "ingress" && only != "egress":
		return usagef("--direction %q is neither ingress nor egress", only)
	}
	x, err := newExplaining(c)
	if err != nil {
		return err
	}
	name := c.Args().First()
	shown, err := endpoints(x.plan, name)
	if namespace := c.String("namespace"); err != nil && namespace != "" && !strings.Contains(name, "/") {
		name = namespace + "/" + name
		shown, err = endpoints(x.plan, name)
	}
	if err != nil {
		return x.noEndpoint(name, err)
	}
	var all []endpointExplained
	for _, e := range shown {
		all = append(all, x.endpoint(e, only))
	}
	return printExplained(c, format, all)
}

// noEndpoint says why an object that is there is no endpoint.
func (x *explaining) noEndpoint(name string, err error) error {
	namespace, pod, _ := strings.Cut(strings.TrimPrefix(name, "Pod/"), "/")
	o, ok := x.objects[v3.Ref{Kind: "Pod", Namespace: namespace, Name: pod}].(*corev1.Pod)
	switch {
	case !ok:
		return err
	case o.Spec.HostNetwork:
		return fmt.Errorf("Pod/%s/%s is in its host's network: only the host endpoints of node %s guard it", namespace, pod, o.Spec.NodeName)
	case o.Spec.NodeName == "":
		return fmt.Errorf("Pod/%s/%s is on no node yet, so nothing guards it", namespace, pod)
	}
	return fmt.Errorf("Pod/%s/%s has no address (it is %s), so nothing guards it", namespace, pod, o.Status.Phase)
}

func (x *explaining) endpoint(e *policy.Endpoint, only string) endpointExplained {
	out := endpointExplained{Endpoint: e.Ref.String(), Node: e.Node, Interfaces: slices.Concat(e.Ifaces, e.Shared), Addresses: append([]netip.Addr{}, e.Addrs...),
		Labels: map[string]string{}, Guards: []guardExplained{}}
	for i := range e.Guards {
		if g := &e.Guards[i]; only == "" || g.Direction.String() == only {
			out.Guards = append(out.Guards, x.guard(e, g, out.Labels))
		}
	}
	for _, n := range x.plan.Notes {
		if n.About == e.Ref {
			out.Notes = append(out.Notes, n.Text)
		}
	}
	return out
}

func (x *explaining) guard(e *policy.Endpoint, g *policy.Guard, labels map[string]string) guardExplained {
	out := guardExplained{Stage: g.Stage.String(), Direction: g.Direction.String(), Tiers: []tierExplained{}, Then: []string{}}
	enforced, staged := namedBy(g.Tiers), namedBy(g.Staged)
	for _, r := range x.ranks {
		t := tierExplained{Tier: r.Tier, Default: r.Default.String(), StagedOnly: true}
		if !r.Missing {
			t.Order = &r.Order
		}
		for i := range r.Policies {
			s := &r.Policies[i]
			in, would := enforced[s.Policy.Ref], staged[s.Policy.Ref]
			if !in && !would {
				continue
			}
			if g.Stage == policy.Untracked || g.Stage == policy.PreDNAT {
				t.Default = policy.Pass.String()
			}
			t.StagedOnly = t.StagedOnly && !in
			p := x.standing(s, g.Direction)
			p.Goes = in && g.HasStaged && !would
			p.Labels = x.asked(e.Ref, s, labels)
			t.Policies = append(t.Policies, p)
		}
		if len(t.Policies) > 0 {
			out.Tiers = append(out.Tiers, t)
		}
	}
	out.Before, out.Then = x.around(g)
	return out
}

// namedBy are the policies that tiers name.
func namedBy(tiers []policy.Tier) map[v3.Ref]bool {
	out := map[v3.Ref]bool{}
	for _, t := range tiers {
		for _, ref := range t.Policies {
			out[ref] = true
		}
	}
	return out
}

// asked are the endpoint's labels about which a policy's selector asks.
func (x *explaining) asked(ref v3.Ref, s *policy.Standing, all map[string]string) (out []string) {
	labels := x.index.Labels(ref)
	if s.Subject == nil || labels == nil {
		return nil
	}
	for _, name := range s.Subject.Labels() {
		if v, ok := labels.Get(name); ok {
			out, all[name] = append(out, name+"="+v), v
		}
	}
	return out
}

// around are what stands before the tiers of policies and what behind them.
func (x *explaining) around(g *policy.Guard) (before, then []string) {
	then = []string{}
	end := true // something gets to the end of the tiers
	for _, t := range g.Tiers {
		switch {
		case t.Name != "":
			passes := slices.ContainsFunc(t.Policies, func(ref v3.Ref) bool { return x.plan.Policy(ref).HasPass(g.Direction) })
			end = end && (t.Default == policy.Pass || passes)
		case len(t.Policies) == 0:
			if end {
				then = append(then, t.Default.String()+": no policy and no profile decides")
			}
		case t.Policies[0].Kind == "Profile":
			if end {
				then = append(then, x.profile(t.Policies[0], g.Direction))
				end = !decidesAll(x.plan.Policy(t.Policies[0]).Rules(g.Direction))
			}
		default:
			before = append(before, builtInWords(x.plan.Policy(t.Policies[0]).Rules(g.Direction))...)
		}
	}
	if g.Stage != policy.Normal && end {
		then = append(then, "go on: "+map[policy.Stage]string{policy.Untracked: "to preDNAT and later policy", policy.PreDNAT: "to later policy",
			policy.Forward: "it is forwarded"}[g.Stage])
	}
	return before, then
}

// decidesAll tells whether a rule leaves nothing undecided.
func decidesAll(rules []policy.Rule) bool {
	return slices.ContainsFunc(rules, func(r policy.Rule) bool {
		return (r.Action == policy.Allow || r.Action == policy.Deny) && r.String() == fmt.Sprintf("%d %s", r.Index, r.Action) || r.Note != ""
	})
}

func (x *explaining) profile(ref v3.Ref, d policy.Direction) string {
	var words []string
	for _, r := range x.plan.Policy(ref).Rules(d) {
		words = append(words, strings.TrimPrefix(r.String(), strconv.Itoa(r.Index)+" "))
	}
	switch {
	case len(words) == 0:
		return ref.String() + ": decides nothing"
	case len(words) == 1 && (words[0] == "Allow" || words[0] == "Deny"):
		words[0] += " everything"
	}
	return ref.String() + ": " + strings.Join(words, "; ")
}

// builtInWords are failsafe ports and what workloads may never send, each list in one line.
func builtInWords(rules []policy.Rule) (out []string) {
	var open, answers []string
	for _, r := range rules {
		far := ""
		for _, n := range slices.Concat(r.Src.Nets, r.Dst.Nets) {
			far += " " + n.String()
		}
		switch {
		case r.Action == policy.Deny:
			out = append(out, "Deny: "+r.Note)
		case r.ICMP != nil:
		case len(r.Dst.Ports) > 0:
			open = append(open, fmt.Sprintf("%s %s%s", policy.ProtoName(r.Proto), r.Dst.Ports[0], far))
		case len(r.Src.Ports) > 0:
			answers = append(answers, fmt.Sprintf("%s %s%s", policy.ProtoName(r.Proto), r.Src.Ports[0], far))
		}
	}
	if len(open) > 0 {
		out = append(out, "Allow: failsafe ports "+strings.Join(open, ", "))
	}
	if len(answers) > 0 {
		out = append(out, "Allow: answers from failsafe ports "+strings.Join(answers, ", "))
	}
	if slices.ContainsFunc(rules, func(r policy.Rule) bool { return r.ICMP != nil }) {
		out = append(out, "Allow: IPv6 neighbour discovery")
	}
	return out
}

// standing is a policy with its rules of one direction.
func (x *explaining) standing(s *policy.Standing, d policy.Direction) policyExplained {
	out := policyExplained{Policy: s.Policy.Ref.String(), Staged: s.Policy.Staged, Selector: "nobody: it is not understood", Rules: x.rules(s, d)}
	if s.Subject != nil {
		out.Selector = s.Subject.String()
	}
	if !math.IsInf(s.Order, 1) {
		out.Order = &s.Order
	}
	return out
}

// rules are as the author wrote them, with whom they find now.
func (x *explaining) rules(s *policy.Standing, d policy.Direction) []ruleExplained {
	out := []ruleExplained{}
	for i, w := range rulesInWords(x.objects[s.Policy.Ref], d) {
		r := ruleExplained{Rule: i, Name: w.name, Action: w.action, Text: w.text}
		var compiled []policy.Rule
		for _, k := range s.Policy.Rules(d) {
			if k.Index == i {
				compiled = append(compiled, k)
				if k.Note != "" && !slices.Contains(r.Notes, k.Note) {
					r.Notes = append(r.Notes, k.Note)
				}
				if k.Families == policy.IPv4 || k.Families == policy.IPv6 {
					note := "of " + map[policy.Families]string{policy.IPv4: "IPv4", policy.IPv6: "IPv6"}[k.Families] + " only"
					if len(k.Src.NotNets)+len(k.Dst.NotNets) > 0 {
						r.Notes = append(r.Notes, note)
					}
				}
			}
		}
		if len(compiled) == 0 {
			r.Notes = append(r.Notes, "matches nothing: it is not understood, or exists for no address family")
		}
		r.From, r.To = x.peers(compiled, func(r *policy.Rule) *policy.Side { return &r.Src }), x.peers(compiled, func(r *policy.Rule) *policy.Side { return &r.Dst })
		out = append(out, r)
	}
	return out
}

// peers of an end; nil where no selector, service or named port stands there, or no plan has the policy's sets.
func (x *explaining) peers(rules []policy.Rule, end func(*policy.Rule) *policy.Side) *peers {
	found := map[string]bool{}
	asked := false
	for i := range rules {
		side := end(&rules[i])
		for _, id := range slices.Concat(side.Sets, side.PortSets) {
			set := x.plan.Set(id)
			if set == nil {
				continue
			}
			asked = true
			for _, name := range x.members(set) {
				found[name] = true
			}
		}
	}
	if !asked {
		return nil
	}
	return &peers{len(found), keys(found)}
}

func (x *explaining) members(set *policy.Set) (out []string) {
	for _, ref := range x.index.MembersOf(set.ID) {
		_, name, _ := strings.Cut(ref.String(), "/")
		if ref.Kind != "Pod" && ref.Kind != "WorkloadEndpoint" {
			name = ref.String()
		}
		out = append(out, name)
	}
	if len(out) > 0 || set.OfPorts && set.Ports.Len() == 0 {
		return out
	}
	name := func(a netip.Addr) {
		if ref, ok := x.holders[a]; ok {
			_, short, _ := strings.Cut(ref.String(), "/")
			out = append(out, short)
		} else {
			out = append(out, a.String())
		}
	}
	for a := range set.Addrs.All() {
		name(a)
	}
	for p := range set.Ports.All() {
		name(p.Addr)
	}
	return out
}

// printExplained prints values that can be text, one after the other.
func printExplained[T interface{ text() string }](c *cli.Context, format string, all []T) error {
	var err error
	switch format {
	case "json":
		encoder := json.NewEncoder(c.App.Writer)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		for _, v := range all {
			err = encoder.Encode(v)
		}
	case "yaml":
		for i, v := range all {
			text, e := yaml.Marshal(v)
			if i > 0 {
				text = append([]byte("---\n"), text...)
			}
			if err = e; err == nil {
				_, err = c.App.Writer.Write(text)
			}
		}
	default:
		for _, v := range all {
			_, err = fmt.Fprint(c.App.Writer, paintRules(c.App.Writer, v.text()))
		}
	}
	return err
}

var ruleAction = regexp.MustCompile(`(?m)^( *\[\d+\] (?:\([^)\n]*\) )?)(Allow|Deny)\b`)

// paintRules paints what rules do.
func paintRules(w io.Writer, text string) string {
	return ruleAction.ReplaceAllStringFunc(text, func(line string) string {
		m := ruleAction.FindStringSubmatch(line)
		return m[1] + paintVerdict(w, m[2])
	})
}

// page is text of lines no longer than a terminal is wide.
type page struct{ strings.Builder }

const pageWidth = 110

// line breaks where it is too long, and goes on further in.
func (p *page) line(indent int, format string, args ...any) {
	at := 0
	for _, word := range strings.Fields(fmt.Sprintf(format, args...)) {
		switch {
		case at == 0:
			p.WriteString(strings.Repeat(" ", indent))
			at = indent
		case at+1+len(word) > pageWidth:
			p.WriteString("\n" + strings.Repeat(" ", indent+4))
			at = indent + 4
		default:
			p.WriteByte(' ')
			at++
		}
		p.WriteString(word)
		at += len(word)
	}
	p.WriteByte('\n')
}

func (p *page) rule(indent int, r *ruleExplained) {
	name := ""
	if r.Name != "" {
		name = " (" + r.Name + ")"
	}
	p.line(indent, "[%d]%s %s %s", r.Rule, name, r.Action, r.Text)
	for _, end := range []struct {
		word string
		*peers
	}{{"from", r.From}, {"to", r.To}} {
		if end.peers != nil {
			p.line(indent+4, "%s %s", end.word, end.text())
		}
	}
	for _, n := range r.Notes {
		p.line(indent+4, "note: %s", n)
	}
}

const mostNamed = 8

func (e *peers) text() string { return few(e.Count, e.Members) }

// few of many names, and how many there are.
func few(count int, names []string) string {
	switch {
	case count == 0:
		return "NOBODY now"
	case count > mostNamed:
		return fmt.Sprintf("%d now: %s and %d more", count, strings.Join(names[:mostNamed], ", "), count-mostNamed)
	}
	return fmt.Sprintf("%d now: %s", count, strings.Join(names, ", "))
}

func orderWords(order *float64) string {
	if order == nil {
		return "no order, so last"
	}
	return "order " + strconv.FormatFloat(*order, 'f', -1, 64)
}

var stageWords = map[string]string{"normal": "", "untracked": ", before connections are tracked (doNotTrack)", "preDNAT": ", before destination NAT (preDNAT)",
	"forward": ", of what the host forwards (applyOnForward)"}

func (e endpointExplained) text() string {
	var p page
	p.line(0, "%s on node %s%s %s", e.Endpoint, e.Node, behind(" interface ", e.Interfaces), strings.Trim(fmt.Sprint(e.Addresses), "[]"))
	for _, n := range e.Notes {
		p.line(2, "note: %s", n)
	}
	if len(e.Guards) == 0 {
		p.line(2, "NOTHING guards it here.")
	}
	for i := range e.Guards {
		e.Guards[i].write(&p)
	}
	return p.String()
}

func behind(word string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return word + strings.Join(names, ",")
}

func (g *guardExplained) write(p *page) {
	p.line(0, "%s%s", strings.ToUpper(g.Direction), stageWords[g.Stage])
	for _, b := range g.Before {
		p.line(2, "first %s", b)
	}
	if len(g.Tiers) == 0 {
		p.line(2, "no policy selects it")
	}
	for i := range g.Tiers {
		g.Tiers[i].write(p)
	}
	for _, t := range g.Then {
		p.line(2, "then %s", t)
	}
}

func (t *tierExplained) write(p *page) {
	order := "nobody made it, so it is the last"
	if t.Order != nil {
		order = orderWords(t.Order)
	}
	p.line(2, "tier %s (%s)", t.Tier, order)
	var because string
	for i := range t.Policies {
		k := &t.Policies[i]
		mark := ""
		if k.Staged {
			mark = " STAGED, not in force"
		} else if because == "" {
			because = k.Policy
		}
		if k.Goes {
			mark = " (would go if what is staged were in force)"
		}
		p.line(4, "%s (%s)%s", k.Policy, orderWords(k.Order), mark)
		p.line(6, "selects it by %s%s", k.Selector, behind(": ", k.Labels))
		for j := range k.Rules {
			p.rule(6, &k.Rules[j])
		}
		if len(k.Rules) == 0 {
			p.line(6, "no rules")
		}
	}
	switch {
	case t.StagedOnly:
		p.line(4, "skipped now: nothing in force selects the endpoint here")
	case t.Default == "Deny":
		p.line(4, "what no rule decides: Deny, the tier's default action, because %s selects the endpoint", because)
	default:
		p.line(4, "what no rule decides: Pass, to what comes next")
	}
}

// policyWhole is the explanation of a policy, as -o json prints it.
type policyWhole struct {
	Policy     string             `json:"policy"`
	Tier       string             `json:"tier,omitempty"`
	TierOrder  *float64           `json:"tierOrder,omitempty"`
	Default    string             `json:"default,omitempty"` // of the tier
	Order      *float64           `json:"order,omitempty"`
	Staged     bool               `json:"staged,omitempty"`
	Stage      string             `json:"stage,omitempty"`
	Forward    bool               `json:"applyOnForward,omitempty"`
	Selector   string             `json:"selector"`
	Endpoints  peers              `json:"endpoints"` // that it selects
	Before     []string           `json:"before"`    // policies that are asked before it of some endpoint, in order
	After      []string           `json:"after"`
	Ingress    []ruleExplained    `json:"ingress,omitempty"`
	Egress     []ruleExplained    `json:"egress,omitempty"`
	Directions []string           `json:"directions"`
	Notes      []string           `json:"notes,omitempty"`
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

func explainPolicy(c *cli.Context) error {
	format, err := output(c, "json", "yaml")
	if err != nil {
		return err
	}
	ref, err := policyArgument(c)
	if err != nil {
		return err
	}
	x, err := newExplaining(c)
	if err != nil {
		return err
	}
	o, ok := x.objects[ref]
	if !ok {
		return fmt.Errorf("%s %w", ref, store.ErrNotFound)
	}
	return printExplained(c, format, []policyWhole{x.policy(ref, o)})
}

// policyArgument reads KIND/NAME, KIND/NAMESPACE/NAME or KIND NAME.
func policyArgument(c *cli.Context) (ref v3.Ref, err error) {
	words := strings.Split(c.Args().First(), "/")
	if c.NArg() == 2 {
		words = append(words, strings.Split(c.Args().Get(1), "/")...)
	}
	if c.NArg() > 2 || len(words) < 2 || len(words) > 3 {
		return ref, usagef("explain policy takes KIND/NAME, KIND/NAMESPACE/NAME or KIND NAME")
	}
	kind, err := store.Lookup(words[0])
	if err != nil {
		return ref, usageError{err}
	}
	if !strings.HasSuffix(kind.Kind, "NetworkPolicy") {
		return ref, usagef("%s is no kind of policy", kind.Kind)
	}
	ref = v3.Ref{Kind: kind.Kind, Name: words[len(words)-1]}
	switch {
	case kind.Namespaced && len(words) == 3:
		ref.Namespace = words[1]
	case kind.Namespaced && c.String("namespace") != "":
		ref.Namespace = c.String("namespace")
	case kind.Namespaced:
		ref.Namespace = "default"
	case len(words) == 3:
		return ref, usagef("%s is not namespaced", kind.Kind)
	}
	return ref, nil
}

func (x *explaining) policy(ref v3.Ref, o client.Object) policyWhole {
	action := stagedAction(o)
	out := policyWhole{Policy: ref.String(), Selector: nobody(action), Staged: action != "", Endpoints: peers{Members: []string{}}, Before: []string{}, After: []string{},
		Directions: []string{}, Conditions: conditionsOf(o)}
	if err := policy.NewIndex("", policy.Options{}).Set(o); err != nil {
		out.Notes = strings.Split(strings.TrimPrefix(err.Error(), ref.String()+": "), "\n")
	}
	for _, n := range x.plan.Notes {
		if n.About == ref {
			out.Notes = append(out.Notes, n.Text)
		}
	}
	for _, r := range x.ranks {
		for i := range r.Policies {
			s := &r.Policies[i]
			if s.Policy.Ref != ref {
				continue
			}
			out.Tier, out.Default, out.Staged, out.Forward, out.Selector = r.Tier, r.Default.String(), s.Policy.Staged, s.Forward, x.standing(s, policy.Ingress).Selector
			out.Order = x.standing(s, policy.Ingress).Order
			if !r.Missing {
				out.TierOrder = &r.Order
			} else {
				out.Notes = append(out.Notes, "nobody made tier "+r.Tier+": it stands behind all others and denies at its end")
			}
			if s.Policy.Stage != policy.Normal {
				out.Stage = s.Policy.Stage.String()
			}
			if s.Ingress {
				out.Directions, out.Ingress = append(out.Directions, "ingress"), x.rules(s, policy.Ingress)
			}
			if s.Egress {
				out.Directions, out.Egress = append(out.Directions, "egress"), x.rules(s, policy.Egress)
			}
		}
	}
	x.among(ref, &out)
	for _, h := range lint.Shadows(x.plan) {
		if h.Policy == ref {
			rule := &ofDirection(h.Direction, out.Ingress, out.Egress)[h.Rule]
			rule.Notes = append(rule.Notes, "NEVER DECIDES: "+h.String())
		}
	}
	return out
}

// among finds whom a policy selects, and the policies that are asked of them before and after it.
func (x *explaining) among(ref v3.Ref, out *policyWhole) {
	before, after := map[v3.Ref]int{}, map[v3.Ref]int{}
	for i := range x.plan.Endpoints {
		e := &x.plan.Endpoints[i]
		selected := false
		for _, g := range e.Guards {
			tiers := g.Tiers
			if !namedBy(tiers)[ref] && g.HasStaged {
				tiers = g.Staged
			}
			if !namedBy(tiers)[ref] {
				continue
			}
			selected = true
			at := before
			for _, t := range tiers {
				for _, p := range t.Policies {
					switch {
					case p == ref:
						at = after
					case t.Name != "":
						at[p]++
					}
				}
			}
		}
		if selected {
			_, name, _ := strings.Cut(e.Ref.String(), "/")
			out.Endpoints.Count++
			out.Endpoints.Members = append(out.Endpoints.Members, name)
		}
	}
	for _, r := range x.ranks {
		for _, s := range r.Policies {
			if before[s.Policy.Ref] > 0 {
				out.Before = append(out.Before, s.Policy.Ref.String())
			}
			if after[s.Policy.Ref] > 0 {
				out.After = append(out.After, s.Policy.Ref.String())
			}
		}
	}
}

// nobody is whom a policy is for that stands nowhere.
func nobody(action v3.StagedAction) string {
	switch action {
	case "", v3.StagedActionSet:
		return "nobody: it is not understood"
	case v3.StagedActionDelete:
		return "nobody: a deletion that is staged"
	}
	return "nobody: its stagedAction is " + string(action)
}

// stagedAction of a policy that is staged; "" of another.
func stagedAction(o client.Object) v3.StagedAction {
	switch o := o.(type) {
	case *v3.StagedNetworkPolicy:
		return o.Spec.StagedAction
	case *v3.StagedGlobalNetworkPolicy:
		return o.Spec.StagedAction
	case *v3.StagedKubernetesNetworkPolicy:
		return o.Spec.StagedAction
	}
	return ""
}

func conditionsOf(o client.Object) []metav1.Condition {
	switch o := o.(type) {
	case *v3.NetworkPolicy:
		return o.Status.Conditions
	case *v3.GlobalNetworkPolicy:
		return o.Status.Conditions
	}
	return nil
}

func (k policyWhole) text() string {
	var p page
	staged := ""
	if k.Staged {
		staged = " STAGED, not in force"
	}
	p.line(0, "%s%s", k.Policy, staged)
	if k.Tier != "" {
		order := "which nobody made"
		if k.TierOrder != nil {
			order = orderWords(k.TierOrder)
		}
		p.line(2, "in tier %s (%s, default %s), %s", k.Tier, order, k.Default, orderWords(k.Order))
	}
	switch {
	case k.Stage != "":
		p.line(2, "for host endpoints only%s", stageWords[k.Stage])
	case k.Forward:
		p.line(2, "also for what hosts forward (applyOnForward)")
	}
	of := ""
	if len(k.Directions) > 0 {
		of = strings.Join(k.Directions, " and ") + " of "
	}
	p.line(2, "for %s%s", of, k.Selector)
	p.line(2, "selects %s", few(k.Endpoints.Count, k.Endpoints.Members))
	if len(k.Before) > 0 {
		p.line(2, "asked before it: %s", strings.Join(k.Before, ", "))
	}
	if len(k.After) > 0 {
		p.line(2, "asked after it: %s", strings.Join(k.After, ", "))
	}
	for _, d := range k.Directions {
		rules := k.Ingress
		if d == "egress" {
			rules = k.Egress
		}
		p.line(0, "%s", strings.ToUpper(d))
		for i := range rules {
			p.rule(2, &rules[i])
		}
		if len(rules) == 0 {
			p.line(2, "no rules")
		}
		if k.Stage == "" && !k.Staged {
			p.line(2, "what no policy of the tier decides: %s", k.Default)
		}
	}
	for _, n := range k.Notes {
		p.line(0, "note: %s", n)
	}
	for _, c := range k.Conditions {
		p.line(0, "%s %s: %s %s", c.Type, c.Status, c.Reason, c.Message)
	}
	return p.String()
}
