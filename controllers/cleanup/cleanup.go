// Package cleanup finds what Calico, its operator included, has left in a cluster, or what Tierwall itself is there, says in which order it can be
// removed, and removes it as a run that can be killed at any moment, goes on, and can be turned round.
//
//	the cluster ── Find, FindOurs ──► Inventory ── Begin ──► Journal ── Continue, Restore ──► the cluster
//
// What is Calico's is told by API groups, and by the names that its manifests and its operator give (contract §7.1); what is Tierwall's by the names
// that its manifests give and their label together; neither by what people may have made, such as labels of their own.
package cleanup

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

// Stage is when a thing is removed: all of one before the next.
type Stage int

// The stages, in the order of contract §7.4. What refuses writes goes first, and definitions only after their objects.
const (
	Nodes       Stage = iota // who can take our table out of the nodes' kernels, where it would stay and go on filtering
	Admission                // webhooks and admission policies: with a dead server behind them they refuse what follows
	Served                   // an APIService: a stale one keeps every namespace from going
	Programs                 // our controller, which makes objects and finalizers anew
	Objects                  // custom resources
	Workloads                // what no longer runs, or runs only by what is left
	Accounts                 // roles, bindings, service accounts, settings
	Spaces                   // namespaces
	Definitions              // CRDs
)

var stages = []string{"nodes", "admission", "served APIs", "programs", "objects", "workloads", "accounts", "namespaces", "definitions"}

// String is what the stage is of.
func (s Stage) String() string { return stages[s] }

// MarshalText gives the stage's name.
func (s Stage) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText understands what MarshalText gives.
func (s *Stage) UnmarshalText(text []byte) error {
	n := slices.Index(stages, string(text))
	if n < 0 {
		return fmt.Errorf("no stage is called %q", text)
	}
	*s = Stage(n)
	return nil
}

// Way is how a thing goes.
type Way string

// The ways.
const (
	Deleted    Way = ""
	TakenOut   Way = "taken out of the nodes, then deleted" // the agents' DaemonSet, with what it has in each kernel
	IfEmpty    Way = "deleted if nothing else is in it"     // a namespace
	HandedBack Way = "put back as it was"                   // a CRD of another's that was taken over
	Released   Way = "stays, without its finalizers"        // or nobody could delete it any more
)

// Thing is one object that is Calico's, or ours.
type Thing struct {
	Stage      Stage  `json:"stage"`
	Way        Way    `json:"way,omitempty"`
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Resource   string `json:"resource"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	// Why it is taken for Calico's, or for ours.
	Why string `json:"why"`
	// Kept is why it stays.
	Kept string `json:"kept,omitempty"`
	// Running tells of a workload what of it runs.
	Running string `json:"running,omitempty"`
	// Trouble is what is wrong with it, e.g. that nobody answers behind a webhook.
	Trouble []string `json:"trouble,omitempty"`
	// Orphaned are finalizers that nobody will take away any more.
	Orphaned []string `json:"orphaned,omitempty"`
	// Waits are finalizers that somebody who still runs takes away.
	Waits []string `json:"waits,omitempty"`
	// Terminating tells that somebody has deleted it, and that it waits for its finalizers.
	Terminating bool `json:"terminating,omitempty"`
}

// String is Kind/namespace/name.
func (t *Thing) String() string {
	if t.Namespace == "" {
		return t.Kind + "/" + t.Name
	}
	return t.Kind + "/" + t.Namespace + "/" + t.Name
}

// Inventory is what there is, in the order in which it can be removed.
type Inventory struct {
	// Server is where the API server is.
	Server string `json:"server"`
	// Enforced is of Tierwall's alone.
	Enforced *Enforced `json:"enforced,omitempty"`
	Things   []Thing   `json:"things"`
	// Refused are reasons why nothing of it can be removed safely.
	Refused []string `json:"refused,omitempty"`
	// Unknown is what could not be looked at, and why.
	Unknown []string `json:"unknown,omitempty"`
}

// Nothing are names of the options that name nothing.
func (i *Inventory) Nothing(o Options) []string {
	return slices.DeleteFunc(slices.Clone(o.Named), func(name string) bool {
		return slices.ContainsFunc(i.Things, func(t Thing) bool { return t.String() == name })
	})
}

// Policies are how many policies are to go.
func (i *Inventory) Policies() (n int) {
	for _, t := range i.Left() {
		if t.Stage == Objects && strings.HasSuffix(t.Kind, "Policy") {
			n++
		}
	}
	return n
}

// Running are the workloads that run: while there are any, definitions and objects stay.
func (i *Inventory) Running() (out []Thing) {
	for _, t := range i.Things {
		if t.Running != "" {
			out = append(out, t)
		}
	}
	return out
}

// Left is all that is to go.
func (i *Inventory) Left() (out []Thing) {
	for _, t := range i.Things {
		if t.Kept == "" {
			out = append(out, t)
		}
	}
	return out
}

// Options say what else is Calico's, and what is not.
type Options struct {
	// Named are what would be kept and is to go as well, as Kind/name or Kind/namespace/name: such as came with Calico and others may use.
	Named []string
}

func (o *Options) names(t *Thing) bool { return slices.Contains(o.Named, t.String()) }

// Cluster is where to look.
type Cluster struct {
	config   *rest.Config
	dynamic  dynamic.Interface
	metadata metadata.Interface
	served   discovery.DiscoveryInterface
	host     string
	page     int64
	patience time.Duration             // for an object to go
	fault    func(before string) error // in tests
}

// Open names a cluster; nothing is asked of it yet.
func Open(config *rest.Config) (*Cluster, error) {
	config = rest.CopyConfig(config)
	if config.QPS == 0 {
		config.QPS, config.Burst = 100, 200
	}
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", config.Host, err)
	}
	m, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", config.Host, err)
	}
	served, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", config.Host, err)
	}
	return &Cluster{config: config, dynamic: d, metadata: m, served: served, host: config.Host, page: 500, patience: time.Minute}, nil
}

// Find looks everywhere. What cannot be looked at is in Unknown; the error is ctx's.
func (c *Cluster) Find(ctx context.Context, o Options) (*Inventory, error) {
	s := c.search()
	s.options = o
	if err := s.plug(ctx); err != nil {
		return nil, err
	}
	for _, p := range places {
		if err := s.look(ctx, p); err != nil {
			return nil, err
		}
	}
	for _, d := range s.definitions {
		if err := s.objectsOf(ctx, d); err != nil {
			return nil, err
		}
	}
	if err := s.insideSpaces(ctx); err != nil {
		return nil, err
	}
	s.finalizers(s.found.Running())
	s.found.sort()
	return s.found, nil
}

// sort things into the order in which they go.
func (i *Inventory) sort() {
	slices.SortStableFunc(i.Things, func(a, b Thing) int {
		return cmp.Or(int(a.Stage-b.Stage), cmp.Compare(rank(a.Kind), rank(b.Kind)), strings.Compare(a.Kind, b.Kind), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
}

// InTheWay is what of Calico's keeps others from writing objects of its groups: an APIService that leads to another server, and webhooks with
// nobody behind them. What could not be asked is an error.
func (c *Cluster) InTheWay(ctx context.Context) ([]Thing, error) {
	s := c.search()
	for _, p := range places {
		if p.kind != "APIService" && !strings.HasSuffix(p.kind, "WebhookConfiguration") {
			continue
		}
		if err := s.look(ctx, p); err != nil {
			return nil, err
		}
	}
	if len(s.found.Unknown) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrUnknown, strings.Join(s.found.Unknown, "; "))
	}
	return slices.DeleteFunc(s.found.Things, func(t Thing) bool { return t.Kept != "" || t.Stage == Admission && len(t.Trouble) == 0 }), nil
}

// Agents are what of Calico's is kept running on nodes, and enforces. What could not be asked is an error.
func (c *Cluster) Agents(ctx context.Context) ([]Thing, error) {
	s := c.search()
	for _, p := range places {
		if p.kind == "DaemonSet" {
			if err := s.look(ctx, p); err != nil {
				return nil, err
			}
		}
	}
	if len(s.found.Unknown) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrUnknown, strings.Join(s.found.Unknown, "; "))
	}
	return slices.DeleteFunc(s.found.Running(), func(t Thing) bool { return t.Name == "csi-node-driver" }), nil
}

// rank puts within a stage what others wait for behind them: a tier goes when its policies have gone, an installation when all that hangs on
// it has; staged policies go before those in force (contract §7.4).
func rank(kind string) int {
	switch {
	case strings.HasPrefix(kind, "Staged"):
		return 0
	case strings.HasSuffix(kind, "Policy"):
		return 1
	case kind == "Tier":
		return 3
	case kind == "Installation":
		return 4
	}
	return 2
}

// search is one Find, or one FindOurs.
type search struct {
	*Cluster
	options     Options
	labels      string // a selector of what each place is asked for
	found       *Inventory
	definitions []definition
	seen        map[schema.GroupResource]bool // in a version that is served
	homes       map[string]bool               // namespaces in which Tierwall is
	releases    map[release]bool
	plugin      string // a pod whose network is from Calico's CNI plugin, if there is one
}

func (c *Cluster) search() *search {
	return &search{Cluster: c, found: &Inventory{Server: c.host, Things: []Thing{}}, seen: map[schema.GroupResource]bool{}, homes: map[string]bool{ourSpace: true}, releases: map[release]bool{}}
}

// place is a kind of object among which there may be some.
type place struct {
	schema.GroupVersionResource
	kind  string
	stage Stage
	// is tells why an object is one, or "".
	is func(*unstructured.Unstructured) string
	// more looks closer.
	more func(context.Context, *search, *unstructured.Unstructured, *Thing) error
}

func (s *search) look(ctx context.Context, p place) error {
	if s.seen[p.GroupResource()] {
		return nil
	}
	return s.each(ctx, p.GroupVersionResource, p.kind, func(u *unstructured.Unstructured) error {
		why := p.is(u)
		if why == "" {
			return nil
		}
		t := s.thing(p.stage, p.GroupVersionResource, p.kind, u, why)
		if p.more != nil {
			if err := p.more(ctx, s, u, &t); err != nil {
				return err
			}
		}
		if t.Why != "" {
			s.found.Things = append(s.found.Things, t)
		}
		return nil
	})
}

func (s *search) thing(stage Stage, r schema.GroupVersionResource, kind string, o metav1.Object, why string) Thing {
	return Thing{Stage: stage, APIVersion: r.GroupVersion().String(), Kind: kind, Resource: r.Resource, Namespace: o.GetNamespace(), Name: o.GetName(), Why: why,
		Orphaned: o.GetFinalizers(), Terminating: o.GetDeletionTimestamp() != nil}
}

// each object of a resource. One that the cluster does not have has none; one that cannot be asked for is unknown.
func (s *search) each(ctx context.Context, r schema.GroupVersionResource, kind string, do func(*unstructured.Unstructured) error) error {
	for next := ""; ; {
		list, err := s.dynamic.Resource(r).List(ctx, metav1.ListOptions{LabelSelector: s.labels, Limit: s.page, Continue: next})
		if err := s.unknown(ctx, kind, err); err != nil || list == nil {
			return err
		}
		s.seen[r.GroupResource()] = true
		for i := range list.Items {
			if err := do(&list.Items[i]); err != nil {
				return err
			}
		}
		if next = list.GetContinue(); next == "" {
			return nil
		}
	}
}

// unknown notes what could not be asked for; what is not served is not there.
func (s *search) unknown(ctx context.Context, what string, err error) error {
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.found.Unknown = append(s.found.Unknown, fmt.Sprintf("%s: %v", what, err))
	return nil
}
