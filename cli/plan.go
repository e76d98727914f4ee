package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

func planCommand() *cli.Command {
	return &cli.Command{
		Name: "plan", Usage: "print what guards an endpoint or a node, in order",
		UsageText: "tierctl plan [-f FILE] [--node NODE] [ENDPOINT]\n   tierctl plan [-f FILE] --node NODE --nft",
		Description: "ENDPOINT is namespace/name of a pod or workload endpoint, or the name of a host endpoint; without it, all of them.\n" +
			"--nft prints the whole table that the node's agent would program, as nft -f reads it.",
		Flags: slices.Concat(fileFlags(), []cli.Flag{
			nodeFlag("only the endpoints of this `NODE`"),
			&cli.BoolFlag{Name: "nft", Usage: "the node's nftables table"},
			endpointToHostFlag(), outputFlag("json"), datastoreFlag(),
		}),
		Action: printPlan,
	}
}

func printPlan(c *cli.Context) error {
	format, err := output(c, "json")
	if err != nil {
		return err
	}
	if c.NArg() > 1 {
		return usagef("plan takes one ENDPOINT, but %d were given", c.NArg())
	}
	if c.Bool("nft") && (c.NArg() > 0 || format != "") {
		return usagef("--nft prints a node's table: it goes with neither ENDPOINT nor -o")
	}
	objs, err := objects(c)
	if err != nil {
		return err
	}
	x, err := index(c, c.String("node"), objs)
	if err != nil {
		return err
	}
	p := planned(c, x)
	if c.Bool("nft") {
		return printTable(c, p)
	}
	shown, err := endpoints(p, c.Args().First())
	if err != nil {
		return err
	}
	if format == "json" {
		return json.NewEncoder(c.App.Writer).Encode(viewOf(p, shown))
	}
	return printEndpoints(c, p, shown)
}

// printTable needs one node: a table is always one node's.
func printTable(c *cli.Context, p *policy.Plan) error {
	if p.Node == "" {
		return usagef("--nft needs --node: each node has a table of its own")
	}
	_, err := fmt.Fprint(c.App.Writer, ruleset.Compile(p, ruleset.Options{}))
	return err
}

// endpoints are all, or those with a name: namespace/name of a workload, or the name of a host endpoint.
func endpoints(p *policy.Plan, name string) (out []*policy.Endpoint, err error) {
	for i := range p.Endpoints {
		e := &p.Endpoints[i]
		_, short, _ := strings.Cut(e.Ref.String(), "/")
		if name == "" || name == short || name == e.Ref.String() {
			out = append(out, e)
		}
	}
	if len(out) == 0 && name != "" {
		where := ""
		if p.Node != "" {
			where = " on node " + p.Node
		}
		return nil, fmt.Errorf("no endpoint %s%s: expected namespace/name of a pod or workload endpoint with an address, or a host endpoint's name", name, where)
	}
	return out, nil
}

// printEndpoints prints each endpoint, then the policies that they name and the sets that those name, once each.
func printEndpoints(c *cli.Context, p *policy.Plan, shown []*policy.Endpoint) error {
	var b strings.Builder
	policies, sets := named(p, shown)
	for _, e := range shown {
		b.WriteString(e.String())
	}
	for _, ref := range policies {
		b.WriteString(p.Policy(ref).String())
	}
	for _, id := range sets {
		b.WriteString(p.Set(id).String())
	}
	_, err := fmt.Fprint(c.App.Writer, b.String())
	return err
}

// named lists the policies that endpoints' guards name, in the order in which they are met, and their rules' sets.
func named(p *policy.Plan, shown []*policy.Endpoint) (refs []v3.Ref, ids []string) {
	seen, sets := map[v3.Ref]bool{}, map[string]bool{}
	for _, e := range shown {
		for _, g := range e.Guards {
			for _, t := range g.Tiers {
				for _, ref := range t.Policies {
					if !seen[ref] {
						seen[ref] = true
						refs = append(refs, ref)
					}
				}
			}
		}
	}
	for _, ref := range refs {
		for _, r := range slices.Concat(p.Policy(ref).Ingress, p.Policy(ref).Egress) {
			for _, s := range []policy.Side{r.Src, r.Dst} {
				for _, id := range slices.Concat(s.Sets, s.NotSets, s.PortSets, s.NotPortSets) {
					sets[id] = true
				}
			}
		}
	}
	return refs, keys(sets)
}

// planView is what plan -o json prints.
type planView struct {
	Node      string         `json:"node,omitempty"`
	Endpoints []endpointView `json:"endpoints"`
	Policies  []policyView   `json:"policies"`
	Sets      []setView      `json:"sets"`
}

type endpointView struct {
	Endpoint   string      `json:"endpoint"`
	Node       string      `json:"node"`
	Interfaces []string    `json:"interfaces,omitempty"`
	Addresses  []string    `json:"addresses"`
	Guards     []guardView `json:"guards"`
}

type guardView struct {
	Stage     string     `json:"stage"`
	Direction string     `json:"direction"`
	Tiers     []tierView `json:"tiers"`
}

type tierView struct {
	Tier     string   `json:"tier,omitempty"`
	Policies []string `json:"policies"`
	Default  string   `json:"default"`
}

type policyView struct {
	Policy  string   `json:"policy"`
	Ingress []string `json:"ingress"`
	Egress  []string `json:"egress"`
}

type setView struct {
	Set     string   `json:"set"`
	About   string   `json:"about"`
	Members []string `json:"members"`
}

func viewOf(p *policy.Plan, shown []*policy.Endpoint) planView {
	v := planView{Node: p.Node, Endpoints: []endpointView{}, Policies: []policyView{}, Sets: []setView{}}
	for _, e := range shown {
		v.Endpoints = append(v.Endpoints, endpointViewOf(e))
	}
	refs, ids := named(p, shown)
	for _, ref := range refs {
		k := p.Policy(ref)
		v.Policies = append(v.Policies, policyView{ref.String(), ruleTexts(k.Ingress), ruleTexts(k.Egress)})
	}
	for _, id := range ids {
		s := p.Set(id)
		v.Sets = append(v.Sets, setView{s.ID, s.About, append([]string{}, s.Members()...)})
	}
	return v
}

func endpointViewOf(e *policy.Endpoint) endpointView {
	v := endpointView{e.Ref.String(), e.Node, e.Ifaces, []string{}, []guardView{}}
	for _, a := range e.Addrs {
		v.Addresses = append(v.Addresses, a.String())
	}
	for _, g := range e.Guards {
		gv := guardView{g.Stage.String(), g.Direction.String(), []tierView{}}
		for _, t := range g.Tiers {
			tv := tierView{t.Name, []string{}, t.Default.String()}
			for _, ref := range t.Policies {
				tv.Policies = append(tv.Policies, ref.String())
			}
			gv.Tiers = append(gv.Tiers, tv)
		}
		v.Guards = append(v.Guards, gv)
	}
	return v
}

func ruleTexts(rules []policy.Rule) []string {
	out := []string{}
	for _, r := range rules {
		out = append(out, r.String())
	}
	return out
}
