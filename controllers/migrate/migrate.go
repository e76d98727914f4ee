// Package migrate brings policies from where Calico keeps them into a store of ours, and back again.
//
//	Source ── Plan ──► what is written, what is left out and why ── Continue ──► the store
//	  crd.projectcalico.org/v1, projectcalico.org/v3, a file          ▲ journal: plan, copies, phase
//
// What the objects mean for a packet is not asked here: who shows that verdicts are the same compares Source.Policies with the store.
package migrate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/cleanup"
	"github.com/tierwall/tierwall/controllers/crds"
	"github.com/tierwall/tierwall/controllers/store"
)

// Site is a store that policies come to, and the cluster that it is in, if it is in one.
type Site struct {
	Store      store.Store
	dynamic    dynamic.Interface // nil without a cluster
	served     discovery.DiscoveryInterface
	crds       *crds.Cluster
	cleanup    *cleanup.Cluster
	page       int64
	patience   time.Duration             // for what is in the way to go
	fault      func(before string) error // in tests
	writesOnce bool                      // the store's Transact calls its function once, and not first on trial
}

// Open names a site; nothing is asked of it yet. config is of the cluster that the store is in, nil where it is a file.
func Open(config *rest.Config, s store.Store) (*Site, error) {
	site := &Site{Store: s, page: 500, patience: time.Minute}
	if config == nil {
		site.writesOnce = true
		return site, nil
	}
	config = rest.CopyConfig(config)
	if config.QPS == 0 {
		config.QPS, config.Burst = 100, 200
	}
	var err error
	if site.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", config.Host, err)
	}
	if site.served, err = discovery.NewDiscoveryClientForConfig(config); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", config.Host, err)
	}
	if site.crds, err = crds.Open(config); err != nil {
		return nil, err
	}
	site.cleanup, err = cleanup.Open(config)
	return site, err
}

// step comes before each thing done. Tests end the run there.
func (s *Site) step(what string) error {
	if s.fault == nil {
		return nil
	}
	return s.fault(what)
}

func at(groupVersion, resource string) schema.GroupVersionResource {
	gv, _ := schema.ParseGroupVersion(groupVersion) // it is one
	return gv.WithResource(resource)
}

// Does is what becomes of an object in the store.
type Does string

// What a run does.
const (
	Creates   Does = "create"
	Replaces  Does = "replace"
	Deletes   Does = "delete" // an earlier run has written it, and the source has it no more
	Unchanged Does = "unchanged"
)

// Move is one object that is to be in the store, or no longer.
type Move struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	From      string `json:"from,omitempty"` // what the source calls it, where that is something else
	Does      Does   `json:"does"`
	// Digest is of what is written: a plan that somebody has read holds for no other content.
	Digest string `json:"digest,omitempty"`
	// Ours tells that this run or one before has written it, so that rollback takes it back.
	Ours bool `json:"ours,omitempty"`
	// Again tells that a run before has: what stood there before that is known.
	Again bool `json:"again,omitempty"`

	want, now, before client.Object // nil for none; before is what stood there before our first run
}

// Ref names the object.
func (m *Move) Ref() v3.Ref { return v3.Ref{Kind: m.Kind, Namespace: m.Namespace, Name: m.Name} }

// Left is what the source has and the store gets not.
type Left struct {
	What string `json:"what"`
	Why  string `json:"why"`
	// Lost tells that it is something of policy, which no longer says anything.
	Lost bool `json:"lost,omitempty"`
}

// Refusal is what a plan says that is not to lose it.
func (l *Left) Refusal() string { return l.What + " cannot be carried: " + l.Why }

// Plan is what a run is to do. It does not change while the run goes on.
type Plan struct {
	Begun  time.Time `json:"begun,omitzero"`
	Source string    `json:"source"`
	Store  string    `json:"store"`
	// InTheWay is what is removed first, for with it our objects cannot be written: Calico's APIService before our CRDs, webhooks with nobody behind
	// them. Removed is what an earlier run has removed. Rollback puts back both.
	InTheWay []cleanup.Thing `json:"inTheWay,omitempty"`
	Removed  []cleanup.Thing `json:"removed,omitempty"`
	// Replace is of Options.
	Replace bool     `json:"replace,omitempty"`
	CRDs    []string `json:"crds,omitempty"` // to be installed, upgraded or taken over
	Moves   []Move   `json:"moves"`
	Left    []Left   `json:"left,omitempty"`
	Notes   []string `json:"notes,omitempty"`
	// Refused are the reasons why nothing of it is done.
	Refused []string `json:"refused,omitempty"`
}

// Nothing tells whether there is nothing to do.
func (p *Plan) Nothing() bool {
	return len(p.InTheWay) == 0 && len(p.CRDs) == 0 && !slices.ContainsFunc(p.Moves, func(m Move) bool { return m.Does != Unchanged })
}

// Options of a plan.
type Options struct {
	Lossy   bool // leave out what cannot be carried
	Replace bool // write over objects of the store that say something else
	Prune   bool // delete what an earlier run has written and the source has no more
}

// ErrRefused says that a plan has reasons not to be done; nothing was changed.
var ErrRefused = errors.New("nothing is migrated")

// said is what people say by an object: its labels, annotations and spec, in JSON.
func said(o client.Object) []byte {
	if o == nil {
		return nil
	}
	text, err := json.Marshal(o)
	if err != nil {
		return nil
	}
	var all struct {
		Metadata struct {
			Labels      map[string]string `json:"labels,omitempty"`
			Annotations map[string]string `json:"annotations,omitempty"`
		} `json:"metadata"`
		Spec json.RawMessage `json:"spec"`
	}
	if json.Unmarshal(text, &all) != nil {
		return nil
	}
	delete(all.Metadata.Labels, v3.LabelTier) // which every store gives it anew
	delete(all.Metadata.Annotations, store.LockAnnotation)
	out, err := json.Marshal(all)
	if err != nil {
		return nil
	}
	return out
}

// same tells whether two objects say the same; none says nothing.
func same(a, b client.Object) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return bytes.Equal(said(a), said(b))
}

// objects of a store, by name.
type objects map[v3.Ref]client.Object

// there is what the store has of kinds that a source can have. A kind that the cluster does not know yet has none.
func (s *Site) there(ctx context.Context) (objects, error) {
	out := objects{}
	for _, kind := range s.kinds() {
		list, err := s.Store.List(ctx, kind.Kind, "")
		if errors.Is(err, store.ErrNoKind) || errors.Is(err, store.ErrNoStore) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("what is there already: %w", err)
		}
		for _, o := range list {
			out[v3.RefOf(o.(v3.Object))] = o
		}
	}
	return out, nil
}

// kinds that the store holds and a source can have, tiers first: those of projectcalico.org that are not derived from others.
func (s *Site) kinds() (out []store.Kind) {
	k, cluster := s.Store.(*store.Kube)
	for _, kind := range store.Kinds() {
		if kind.Calico() && (!cluster || k.Holds(kind.Kind)) {
			out = append(out, kind)
		}
	}
	return out
}
