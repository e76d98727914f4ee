package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

func nodeStatusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "whether this machine's agent runs, and its table is as it should be", UsageText: "tierctl node status [-o json|yaml]",
		Description: "Looks at this machine alone: who has the table " + ruleset.DefaultTable + ", what is in it, and whether it is what the datastore's objects ask for; who else\n" +
			"filters; what the node remembers. The kernel's part needs root. Exit status 1: something is not as it should be; 3: not all could be looked at.",
		Flags:  []cli.Flag{nodeNameFlag(), stateFlag(), outputFlag("json, yaml"), datastoreFlag()},
		Action: printNodeStatus,
	}
}

// machine is what node status -o json prints.
type machine struct {
	Node     string         `json:"node"`
	Kernel   string         `json:"kernel"`
	Well     bool           `json:"well"`
	Wrong    []string       `json:"wrong"`
	Unseen   []string       `json:"unseen,omitempty"` // what could not be looked at, and why
	Agent    *agentProcess  `json:"agent,omitempty"`
	Table    *tableView     `json:"table,omitempty"`
	Report   *nodeStatus    `json:"report,omitempty"`
	Drift    []string       `json:"drift,omitempty"` // what the agent would change
	Compared bool           `json:"compared"`        // with what the datastore's objects ask for
	Others   []enforcerView `json:"others,omitempty"`
	Snapshot *rememberedAt  `json:"snapshot,omitempty"`
	Rescue   string         `json:"rescue,omitempty"` // the file that has host endpoints guard nothing
	BGP      string         `json:"bgp"`
}

// agentProcess is whoever has the table.
type agentProcess struct {
	PID       int          `json:"pid,omitempty"` // none of one that cannot be seen from here
	Since     *metav1.Time `json:"since,omitempty"`
	Address   string       `json:"address,omitempty"` // where it says how it is
	Ready     string       `json:"ready,omitempty"`   // what it says there
	Confirmed *metav1.Time `json:"confirmed,omitempty"`

	arguments   []string
	environment map[string]string
}

type tableView struct {
	Name     string `json:"name"`
	Owned    bool   `json:"owned"`
	Persist  bool   `json:"persist"`
	Chains   int    `json:"chains"`
	Rules    int    `json:"rules"`
	Sets     int    `json:"sets"`
	Elements int    `json:"elements"`
}

type rememberedAt struct {
	Path    string      `json:"path"`
	Written metav1.Time `json:"written"`
	Bytes   int64       `json:"bytes"`
}

// noBGP answers what calicoctl's users look for in this command.
const noBGP = "there is none: Tierwall routes nothing, and has no peers"

func printNodeStatus(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "json", "yaml")
	if err != nil {
		return err
	}
	m, err := lookAtMachine(c)
	if err != nil {
		return err
	}
	switch format {
	case "json", "yaml":
		err = m.write(c.App.Writer, format)
	default:
		err = m.print(c.App.Writer)
	}
	switch {
	case err != nil:
		return err
	case len(m.Wrong) > 0:
		return fmt.Errorf("not all is as it should be here: %s", oneLine(m.Wrong[0], 200))
	case len(m.Unseen) > 0:
		return statusError{fmt.Errorf("not all could be looked at: %s", oneLine(m.Unseen[0], 200)), exitPartly}
	}
	return nil
}

// holder of this machine's table.
func holder() (nft.Holder, error) {
	k, err := nft.Open(ruleset.DefaultTable)
	if err != nil {
		return nft.Holder{}, err
	}
	defer k.Close()
	return k.Holder()
}

// lookAtMachine asks everybody who knows something of this machine. Who does not answer keeps nobody else from it.
func lookAtMachine(c *cli.Context) (*machine, error) {
	name, err := nodeName(c)
	if err != nil {
		return nil, err
	}
	m := &machine{Node: name, Kernel: kernelVersion(), Wrong: []string{}, BGP: noBGP}
	m.memory(c.String("state"))
	m.report(c)
	m.kernel(c)
	m.Well = len(m.Wrong) == 0 && len(m.Unseen) == 0
	return m, nil
}

func (m *machine) wrong(format string, args ...any) {
	m.Wrong = append(m.Wrong, fmt.Sprintf(format, args...))
}

func (m *machine) unseen(what string, err error) {
	if errors.Is(err, os.ErrPermission) {
		err = errors.New("that needs root, or the capability NET_ADMIN in this network namespace")
	}
	m.Unseen = append(m.Unseen, what+": "+err.Error())
}

// memory is what the node keeps in its state's folder.
func (m *machine) memory(state string) {
	if state == "" {
		return
	}
	path := filepath.Join(state, snapshotName)
	info, err := os.Stat(path)
	switch {
	case err == nil:
		m.Snapshot = &rememberedAt{path, metav1.NewTime(info.ModTime()), info.Size()}
	case !errors.Is(err, fs.ErrNotExist):
		m.unseen("the snapshot", err)
	}
	path = filepath.Join(state, rescueName)
	if text, err := os.ReadFile(path); err == nil {
		m.Rescue = path
		m.wrong("host endpoints guard nothing while %s is there: %s", path,
			cmp.Or(strings.TrimSpace(string(text)), "no agent has said yet that it does so")+"; tierctl agent --end-rescue ends it")
	}
}

// report is what the node's agent has told the store.
func (m *machine) report(c *cli.Context) {
	s, err := openStore(c)
	if err != nil {
		m.unseen("what the agent has reported", err)
		return
	}
	ctx, stop := within(c.Context)
	defer stop()
	obj, err := s.Get(ctx, v3.Ref{Kind: "NodeReport", Name: m.Node})
	r, ok := obj.(*v1alpha1.NodeReport)
	switch {
	case errors.Is(err, store.ErrNotFound):
		m.wrong("no agent has reported as node %s: --node says another name", m.Node)
	case err != nil || !ok:
		m.unseen("what the agent has reported", err)
	default:
		m.Report = &nodeStatus{Node: r.Name, Version: r.Status.AgentVersion, Enforcing: "Unknown", Reported: &r.Status.ReportedAt,
			Endpoints: r.Status.Endpoints, Policies: r.Status.Policies}
		if c := apimeta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionEnforcing); c != nil {
			m.Report.Enforcing, m.Report.Since = string(c.Status), &c.LastTransitionTime
			if c.Status != metav1.ConditionTrue {
				m.wrong("not all is enforced: %s", cmp.Or(c.Message, c.Reason))
			}
		}
	}
}

// kernel is what needs root.
func (m *machine) kernel(c *cli.Context) {
	k, err := nft.Open(ruleset.DefaultTable)
	if err != nil {
		m.unseen("the kernel's tables", err)
		return
	}
	defer k.Close()
	held, err := k.Holder()
	if err != nil && !held.There {
		m.unseen("the kernel's tables", err)
		return
	}
	if held.Process != 0 {
		m.Agent = processOf(held.Process)
		m.Agent.ask(c.Context)
		if m.Agent.Ready != "" && m.Agent.Ready != "ok" {
			m.wrong("the agent is not ready: %s", m.Agent.Ready)
		}
	}
	switch {
	case !held.There:
		m.wrong("table inet %s is not there: nothing is enforced", ruleset.DefaultTable)
	case held.Process == 0:
		m.wrong("no agent runs: table inet %s stays as the last one left it", ruleset.DefaultTable)
	}
	others, err := nft.Enforcers()
	if err != nil {
		m.unseen("other programs' rules", err)
	}
	for _, e := range others {
		m.Others = append(m.Others, enforcerView{Program: e.Name, Does: e.What, Found: e.Found, Chains: e.Count, Policy: e.Policy})
		if e.Policy {
			m.wrong("%s: two programs that enforce network policy are one too many", e)
		}
	}
	if held.There {
		m.table(c, k, held)
	}
}

// table counts what is in it, and compares it with what it should be.
func (m *machine) table(c *cli.Context, k *nft.Conn, held nft.Holder) {
	m.Table = &tableView{Name: ruleset.DefaultTable, Owned: held.Owned, Persist: held.Persist}
	have, err := k.Read()
	switch {
	case err != nil:
		m.wrong("the table has what none of ours has: %v", err)
		return
	case have == nil:
		return
	}
	m.Table.Chains, m.Table.Sets = len(have.Chains), len(have.Sets)
	for _, ch := range have.Chains {
		m.Table.Rules += len(ch.Rules)
	}
	for _, s := range have.Sets {
		m.Table.Elements += s.Elems.Len()
	}
	drift, err := m.drift(c, k)
	if err != nil {
		m.unseen("whether the table is what the objects ask for", err)
		return
	}
	m.Compared = true
	for _, change := range drift {
		m.Drift = append(m.Drift, change.String())
	}
	if len(drift) > 0 {
		m.wrong("the table is not what the objects ask for: %d changes are due, the first: %s", len(drift), m.Drift[0])
	}
}

// drift is what this node's agent, with its own settings, would change.
func (m *machine) drift(c *cli.Context, k *nft.Conn) ([]ruleset.Change, error) {
	objs, err := storedObjects(c)
	if err != nil {
		return nil, err
	}
	a := controllers.Agent{Kernel: k, Node: m.Node, ProcSysNet: nft.ProcSysNet}
	lookup := os.LookupEnv
	if m.Agent != nil && m.Agent.environment != nil {
		lookup = func(name string) (string, bool) { v, ok := m.Agent.environment[name]; return v, ok }
	}
	if err := a.Policy.Felix.FromEnv(lookup); err != nil {
		return nil, err
	}
	if kind, _ := datastore(c); kind == kubeDatastore {
		inCluster(&a.Policy)
	}
	if m.Agent != nil {
		if action := m.Agent.argument("default-endpoint-to-host-action"); action != "" {
			a.Policy.Felix.DefaultEndpointToHostAction = &action
		}
		a.Policy.Reevaluate = strings.EqualFold(m.Agent.argument("established-connections"), "reevaluate")
	}
	if state := c.String("state"); state != "" {
		a.Rescue = filepath.Join(state, rescueName)
	}
	want, err := a.Want(c.Context, objs)
	if err != nil {
		return nil, err
	}
	return k.Drift(want)
}

// processOf a holder, as far as it can be seen.
func processOf(pid int) *agentProcess {
	p := &agentProcess{}
	if pid == nft.Unseen {
		return p
	}
	p.PID = pid
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	if info, err := os.Stat(dir); err == nil {
		p.Since = &metav1.Time{Time: info.ModTime()}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil {
		p.arguments = strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
	}
	if text, err := os.ReadFile(filepath.Join(dir, "environ")); err == nil {
		p.environment = map[string]string{}
		for v := range strings.SplitSeq(string(text), "\x00") {
			if name, value, ok := strings.Cut(v, "="); ok {
				p.environment[name] = value
			}
		}
	}
	return p
}

// argument is the value of a flag that the process was started with, or "".
func (p *agentProcess) argument(name string) string {
	for i, a := range p.arguments {
		flag, value, has := strings.Cut(a, "=")
		switch {
		case !strings.HasPrefix(a, "-") || strings.TrimLeft(flag, "-") != name:
		case has:
			return value
		case i+1 < len(p.arguments):
			return p.arguments[i+1]
		}
	}
	return ""
}

// ask the agent itself, where it listens.
func (p *agentProcess) ask(ctx context.Context) {
	host, port, err := net.SplitHostPort(p.argument("listen"))
	if err != nil {
		return
	}
	p.Address = net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port)
	text, err := fetchText(ctx, "http://"+p.Address+"/readyz")
	if p.Ready = strings.TrimSpace(string(text)); err != nil {
		p.Ready = "it does not answer: " + err.Error()
		return
	}
	if text, err = fetchText(ctx, "http://"+p.Address+"/metrics"); err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "tierwall_last_programmed_timestamp_seconds "); ok {
			if seconds, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil && seconds > 0 {
				p.Confirmed = &metav1.Time{Time: time.Unix(int64(seconds), 0)}
			}
		}
	}
}

// fetchText gets what is at an address of this machine, whatever the status.
func fetchText(ctx context.Context, url string) ([]byte, error) {
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	// No proxy stands between this machine and itself.
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	return io.ReadAll(io.LimitReader(answer.Body, 16<<20))
}

func (m *machine) write(to io.Writer, format string) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err == nil && format == "yaml" {
		text, err = yaml.JSONToYAML(text)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(to, "%s\n", bytes.TrimRight(text, "\n"))
	return err
}

func (m *machine) print(to io.Writer) error {
	out := bufio.NewWriter(to)
	w := tabwriter.NewWriter(out, 0, 1, 2, ' ', 0)
	for _, row := range m.rows() {
		fmt.Fprintf(w, "%s\t%s\n", row[0], row[1])
	}
	_ = w.Flush() // into memory
	for _, part := range []struct {
		heading string
		lines   []string
	}{{"Not as it should be", m.Wrong}, {"Could not be looked at", m.Unseen}, {"The agent would", m.Drift}} {
		for i, line := range part.lines {
			if i == 0 {
				fmt.Fprintf(out, "\n%s:\n", part.heading)
			}
			if i == 20 {
				fmt.Fprintf(out, "  and %d more\n", len(part.lines)-i)
				break
			}
			fmt.Fprintf(out, "  %s\n", oneLine(line, 300))
		}
	}
	if m.Well {
		fmt.Fprintln(out, "\nAll is as it should be here.")
	}
	return out.Flush()
}

func (m *machine) rows() (out [][2]string) {
	row := func(name, format string, args ...any) {
		out = append(out, [2]string{name, fmt.Sprintf(format, args...)})
	}
	row("Node", "%s, kernel %s", m.Node, m.Kernel)
	if a := m.Agent; a != nil && a.PID == 0 {
		row("Agent", "runs, in a container that cannot be looked into from here")
	} else if a != nil {
		row("Agent", "process %d, for %s", a.PID, age(a.Since))
	} else {
		row("Agent", "none that can be seen")
	}
	if a := m.Agent; a != nil && a.Address != "" {
		row("Says", "%s (at %s); the table was last confirmed %s ago", a.Ready, a.Address, age(a.Confirmed))
	}
	if r := m.Report; r != nil {
		row("Reported", "%s ago by version %s: enforcing %s for %s, %d endpoints, %d policies", age(r.Reported), cmp.Or(r.Version, "unknown"), r.Enforcing,
			age(r.Since), r.Endpoints, r.Policies)
	}
	if t := m.Table; t != nil {
		kept := "the kernel lets others change it"
		if t.Owned {
			kept = "nobody but the agent can change it"
		}
		row("Table", "inet %s: %d chains, %d rules, %d sets with %d elements; %s", t.Name, t.Chains, t.Rules, t.Sets, t.Elements, kept)
	}
	if m.Compared && len(m.Drift) == 0 {
		row("Drift", "none: it is what the objects ask for")
	}
	for _, o := range m.Others {
		row("Beside it", "%s %s (%s)", o.Program, o.Does, o.Found)
	}
	if s := m.Snapshot; s != nil {
		row("Memory", "%s, %d bytes, written %s ago", s.Path, s.Bytes, age(&s.Written))
	}
	row("BGP", "%s", m.BGP)
	return out
}
