package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/yaml"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	"github.com/tierwall/tierwall/cli/early"
	"github.com/tierwall/tierwall/controllers/crds"
	"github.com/tierwall/tierwall/controllers/store"
)

var version = early.Version

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version of tierctl, and those of the agents that the datastore knows", UsageText: "tierctl version [--client] [--poll DURATION]",
		Description: "Where nobody has said where the datastore is, and there is none, it is not asked. Exit status 1: it was asked and did not answer.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "client", Usage: "of tierctl alone; asks nobody"},
			&cli.DurationFlag{Name: "poll", Usage: "ask again every `DURATION`, such as 10s, and print what has changed (default: once)"},
			outputFlag("json, yaml"), datastoreFlag(),
		},
		Action: showVersion,
	}
}

// versions of the program, and of what it speaks to.
type versions struct {
	Version   string           `json:"version"`
	GitCommit string           `json:"gitCommit"`
	Go        string           `json:"go"`
	Platform  string           `json:"platform"`
	Cluster   *clusterVersions `json:"cluster,omitempty"`
}

// clusterVersions are what agents have said of themselves, and how far the CRDs are ours.
type clusterVersions struct {
	Datastore string              `json:"datastore"`
	Type      string              `json:"type"`
	Agents    map[string][]string `json:"agents"`         // nodes, by version
	CRDs      map[string]int      `json:"crds,omitempty"` // how many, by their state as tierctl crds check has it
}

func showVersion(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "json", "yaml")
	if err != nil {
		return err
	}
	v := versions{Version: version, GitCommit: early.Commit, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if format == "" {
		fmt.Fprint(c.App.Writer, early.Client())
	}
	if c.Bool("client") {
		return v.print(c.App.Writer, format, clusterVersions{})
	}
	at, err := connect(c)
	if err != nil {
		return err
	}
	var last clusterVersions
	ask := func() error {
		now, err := askVersions(c, at)
		if err != nil {
			v.Cluster, last = nil, clusterVersions{} // once it answers again, all of it is news
			return fmt.Errorf("unable to retrieve Cluster Version or Type: %w", err)
		}
		v.Cluster = now
		defer func() { last = *now }()
		return v.print(c.App.Writer, format, last)
	}
	every := c.Duration("poll")
	if every <= 0 {
		err := ask()
		if at.guessed && errors.Is(err, store.ErrNoStore) {
			return v.print(c.App.Writer, format, last)
		}
		if err != nil && format != "" { // what is known of the client, all the same
			_ = v.print(c.App.Writer, format, last)
		}
		return err
	}
	for tick := time.NewTicker(every); ; {
		if err := ask(); err != nil {
			fmt.Fprintf(c.App.ErrWriter, "tierctl: %v\n", err)
		}
		select {
		case <-c.Context.Done():
			return nil
		case <-tick.C:
		}
	}
}

// askVersions of what the datastore knows.
func askVersions(c *cli.Context, at connection) (*clusterVersions, error) {
	ctx, stop := context.WithTimeout(c.Context, 10*time.Second)
	defer stop()
	s, err := openStore(c)
	if err != nil {
		return nil, err
	}
	reports, err := s.List(ctx, "NodeReport", "")
	if err != nil {
		return nil, err
	}
	out := &clusterVersions{Datastore: fmt.Sprint(s), Type: "tierwall," + at.kind, Agents: map[string][]string{}}
	for _, r := range reports {
		v := r.(*v1alpha1.NodeReport).Status.AgentVersion
		out.Agents[v] = append(out.Agents[v], r.GetName())
	}
	if at.kind == kubeDatastore {
		out.CRDs, err = askCRDs(ctx, at)
	}
	return out, err
}

func askCRDs(ctx context.Context, at connection) (map[string]int, error) {
	config, err := at.cluster()
	if err != nil {
		return nil, err
	}
	cluster, err := crds.Open(config)
	if err != nil {
		return nil, err
	}
	findings, err := cluster.Check(ctx)
	out := map[string]int{}
	for i := range findings {
		out[string(findings[i].State)]++
	}
	return out, err
}

// print all of it, or as text what is not as it was.
func (v *versions) print(w io.Writer, format string, was clusterVersions) (err error) {
	var text []byte
	switch {
	case format == "json":
		text, err = json.Marshal(v)
		text = append(text, '\n')
	case format == "yaml":
		text, err = yaml.Marshal(v)
	case v.Cluster != nil:
		for _, line := range []struct{ heading, now, was string }{
			{"Cluster Version:", v.Cluster.agents(), was.agents()}, {"Cluster Type:", v.Cluster.Type, was.Type},
			{"Datastore:", v.Cluster.Datastore, was.Datastore}, {"CRDs:", v.Cluster.crds(), was.crds()},
		} {
			if line.now != line.was {
				text = fmt.Appendf(text, "%-18s %s\n", line.heading, line.now)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	_, err = w.Write(text)
	return err
}

// agents in one line: their version, and where there are several, who has which.
func (v *clusterVersions) agents() string {
	if v.Type == "" {
		return ""
	}
	if len(v.Agents) == 0 {
		return "unknown: no agent has reported"
	}
	var out []string
	for _, version := range slices.Sorted(maps.Keys(v.Agents)) {
		if len(v.Agents) == 1 {
			return version
		}
		out = append(out, version+" on "+strings.Join(v.Agents[version], ", "))
	}
	return strings.Join(out, "; ")
}

func (v *clusterVersions) crds() string {
	var out []string
	for _, state := range slices.Sorted(maps.Keys(v.CRDs)) {
		out = append(out, fmt.Sprintf("%d %s", v.CRDs[state], strings.ToLower(state)))
	}
	return strings.Join(out, ", ")
}
