package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/cleanup"
	"github.com/tierwall/tierwall/controllers/crds"
	"github.com/tierwall/tierwall/controllers/store"
)

// planner makes one plan.
type planner struct {
	*Site
	src     *Source
	options Options
	plan    *Plan
	earlier *run // of the journal, nil if there was none
	wanted  map[v3.Ref]*Object
}

// Plan says what is to be done for the source, and why not. j is the journal of the run before, if there was one: what that has written may be
// written again. Nothing is changed.
func (s *Site) Plan(ctx context.Context, src *Source, j *Journal, o Options) (*Plan, error) {
	p := &planner{Site: s, src: src, options: o, plan: &Plan{Source: src.Name, Store: s.storeName(), Replace: o.Replace}, wanted: map[v3.Ref]*Object{}}
	var err error
	if p.earlier, err = s.earlier(j, p.plan); err != nil {
		return nil, err
	}
	if err := p.cluster(ctx); err != nil {
		return nil, err
	}
	there := objects{}
	if !src.inPlace && src.service == "" {
		if there, err = s.there(ctx); err != nil {
			return nil, err
		}
	}
	if src.Name == Kubernetes {
		if err := p.inPlace(ctx); err != nil {
			return nil, err
		}
	}
	for i := range src.Objects {
		if err := p.carry(ctx, &src.Objects[i], there); err != nil {
			return nil, err
		}
	}
	if err := p.withdraw(there); err != nil {
		return nil, err
	}
	p.homeless(there)
	p.inOrder()
	return p.plan, nil
}

func (s *Site) storeName() string {
	if n, ok := s.Store.(fmt.Stringer); ok {
		return n.String()
	}
	return "the store"
}

func (p *planner) refuse(format string, args ...any) {
	p.plan.Refused = append(p.plan.Refused, fmt.Sprintf(format, args...))
}

func (p *planner) note(format string, args ...any) {
	p.plan.Notes = append(p.plan.Notes, fmt.Sprintf(format, args...))
}

// leave an object out: what is lost of policy is refused unless that was asked for.
func (p *planner) leave(o *Object, lost bool, why string) {
	what := o.String()
	if o.At != "" {
		what = o.At + ": " + what
	}
	left := Left{what, why, lost}
	p.plan.Left = append(p.plan.Left, left)
	if lost && !p.options.Lossy {
		p.refuse("%s", left.Refusal())
	}
}

// cluster looks at what has to be so before objects can be written: our CRDs, with nobody before them.
func (p *planner) cluster(ctx context.Context) error {
	if p.dynamic == nil {
		return nil
	}
	var of Source // asked again: a source that is a file does not know
	err := p.aggregated(ctx, &of)
	if err != nil {
		return err
	}
	p.src.service = of.service
	if p.earlier != nil {
		p.plan.Removed = slices.Concat(p.earlier.plan.InTheWay, p.earlier.plan.Removed)
	}
	if p.plan.InTheWay, err = p.cleanup.InTheWay(ctx); err != nil {
		return err
	}
	p.plan.InTheWay = slices.DeleteFunc(p.plan.InTheWay, func(t cleanup.Thing) bool { return t.Kind == "APIService" && t.Name != of.found })
	for _, t := range p.plan.InTheWay {
		p.plan.Removed = slices.DeleteFunc(p.plan.Removed, func(r cleanup.Thing) bool { return r.String() == t.String() })
	}
	if of.service != "" {
		if err := p.keepers(ctx, of.found); err != nil {
			return err
		}
	}
	findings, err := p.crds.Check(ctx)
	if err != nil {
		return err
	}
	for i := range findings {
		f := &findings[i]
		switch {
		case f.State == crds.Current || f.State == crds.Newer:
			continue
		case f.State == crds.Refused && of.service != "" && len(f.Reasons) == 1: // which is that server
		case !f.Applicable(false):
			for _, why := range append(f.Reasons, f.Losses...) {
				p.refuse("CRD %s: %s", f.Name, why)
			}
			continue
		}
		p.plan.CRDs = append(p.plan.CRDs, f.Name)
	}
	return p.environment(ctx)
}

// inPlace notes what is enforced where it is, and by whom so far.
func (p *planner) inPlace(ctx context.Context) error {
	policies, err := p.Store.List(ctx, v3.KindKubernetesNetworkPolicy, "")
	if err != nil {
		return fmt.Errorf("policies of Kubernetes: %w", err)
	}
	p.note("NetworkPolicies of Kubernetes that are enforced as they are: %d", len(policies))
	for _, name := range []string{"azure-npm", "kube-router"} {
		_, err := p.dynamic.Resource(at("apps/v1", "daemonsets")).Namespace("kube-system").Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil:
			p.note("DaemonSet kube-system/%s enforces them too, as long as it is there; afterwards: tierctl cleanup node --of %s", name, name)
		case !apierrors.IsNotFound(err):
			return fmt.Errorf("asking who enforces policies of Kubernetes: %w", err)
		}
	}
	return nil
}

// keepers would put the APIService back.
func (p *planner) keepers(ctx context.Context, name string) error {
	list, err := p.dynamic.Resource(at("operator.tigera.io/v1", "apiservers")).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("asking who keeps the APIService %s: %w", name, err)
	}
	for _, u := range list.Items {
		operator, err := p.dynamic.Resource(at("apps/v1", "deployments")).Namespace("tigera-operator").Get(ctx, "tigera-operator", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("asking whether Calico's operator runs: %w", err)
		}
		if n, found, _ := unstructured.NestedInt64(operator.Object, "spec", "replicas"); !found || n > 0 {
			p.refuse("APIService %s stands before our CRDs, and Calico's operator would put it back: kubectl delete apiservers.operator.tigera.io %s, and Calico goes on enforcing",
				name, u.GetName())
		}
	}
	return nil
}

// environment notes settings that only the variables of Calico's agents have: they win over objects there, and nobody would say them here.
func (p *planner) environment(ctx context.Context) error {
	for _, in := range []string{"calico-system", "kube-system"} {
		for _, name := range []string{"calico-node", "canal"} {
			u, err := p.dynamic.Resource(at("apps/v1", "daemonsets")).Namespace(in).Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				continue
			}
			if err != nil {
				return fmt.Errorf("reading the variables of Calico's agents: %w", err)
			}
			containers, _, _ := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
			said := map[string]string{}
			for _, c := range containers {
				container, _ := c.(map[string]any)
				env, _ := container["env"].([]any)
				for _, e := range env {
					variable, _ := e.(map[string]any)
					name, _ := variable["name"].(string)
					if value, ok := variable["value"].(string); ok && strings.HasPrefix(name, "FELIX_") {
						said[name] = value
					}
				}
			}
			for _, line := range v3.FelixVariables(said) {
				p.note("DaemonSet %s/%s says %s, which no object does: give it to the agents (agent.felix of the chart)", in, name, line)
			}
		}
	}
	return nil
}

// carry one object, or say why not.
func (p *planner) carry(ctx context.Context, o *Object, there objects) error {
	u, lost := o.is()
	if u.GroupVersionKind().Group != v3.GroupVersion.Group {
		return p.another(ctx, o)
	}
	kind, err := store.Lookup(u.GetKind())
	switch {
	case err != nil:
		why := strings.TrimPrefix(err.Error(), fmt.Sprintf("resource type '%s' is not supported: ", u.GetKind()))
		p.leave(o, !store.Foreign(u.GetKind()), strings.TrimPrefix(why, u.GetKind()+": "))
		return nil
	case !p.carries(kind.Kind) && kind.Kind == "Profile" && !derived(u.GetName()):
		p.leave(o, true, "in a cluster profiles are made from namespaces and service accounts, and this one is from neither: make policies of what it says")
		return nil
	case !p.carries(kind.Kind):
		p.leave(o, false, "the cluster has such objects of its own, or they are made from others")
		return nil
	case ofKubernetes(u):
		p.leave(o, false, "it stands for a NetworkPolicy of Kubernetes, which is enforced as it is")
		return nil
	}
	for _, l := range lost {
		p.leave(o, true, l.String())
	}
	if len(lost) > 0 {
		return nil
	}
	object, errs := store.Admit(u.DeepCopy(), nil)
	if len(errs) > 0 {
		var why []string
		for _, e := range errs {
			why = append(why, e.Field+": "+store.ErrorText(kind.Kind, e))
		}
		p.leave(o, true, strings.Join(why, "; ")+known(u))
		return nil
	}
	ref := v3.RefOf(object.(v3.Object))
	if other := p.wanted[ref]; other != nil {
		p.refuse("%s and %s would both be %s: rename one of them", other, o, ref)
		return nil
	}
	p.wanted[ref] = o
	p.unused(object)
	if o.Was.GetDeletionTimestamp() != nil {
		p.note("%s is being deleted, and is carried as long as it is there", o)
	}
	m := Move{Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name, want: object}
	if ref.String() != o.String() {
		m.From = o.String()
	}
	p.decide(&m, there[ref])
	return nil
}

// another leaves an object that is not Calico's. A policy is lost by that, unless it is there.
func (p *planner) another(ctx context.Context, o *Object) error {
	u := o.Was
	switch typed, err := store.Decode(u); {
	case u.GetAPIVersion() == "" || u.GetKind() == "":
		p.leave(o, true, "it says no apiVersion and kind")
	case err == nil:
		_, err := p.Store.Get(ctx, v3.RefOf(typed.(v3.Object)))
		if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrNoKind) && !errors.Is(err, store.ErrNoStore) {
			return fmt.Errorf("%s: %w", o, err)
		}
		if err == nil {
			p.leave(o, false, "it is not Calico's, and stays as the datastore has it")
			return nil
		}
		fallthrough
	default:
		p.leave(o, strings.HasSuffix(u.GetKind(), "Policy"), "it is not Calico's: tierctl apply or kubectl apply writes it")
	}
	return nil
}

// derived tells of a profile that is made from others.
func derived(profile string) bool {
	return strings.HasPrefix(profile, "kns.") || strings.HasPrefix(profile, "ksa.") || profile == "projectcalico-default-allow"
}

func (p *planner) carries(kind string) bool {
	return slices.ContainsFunc(p.kinds(), func(k store.Kind) bool { return k.Kind == kind })
}

// known tells what Calico does with an object that it has taken and cannot use (contract §1.12).
func known(u *unstructured.Unstructured) string {
	if _, err := store.Decode(u); err != nil {
		return " (Calico's agents cannot read it either, nor anything of its kind as long as it is there)"
	}
	return ""
}

// unused notes fields that are kept and do nothing.
func (p *planner) unused(o client.Object) {
	var fields []string
	switch o := o.(type) {
	case *v3.FelixConfiguration:
		fields = o.Spec.Unused()
	case *v3.KubeControllersConfiguration:
		fields = o.Spec.Unused()
	}
	if len(fields) > 0 {
		p.note("%s: kept, and do nothing here: %s", v3.RefOf(o.(v3.Object)), strings.Join(fields, ", "))
	}
}

// decide what becomes of an object, seeing what is there.
func (p *planner) decide(m *Move, now client.Object) {
	ref := m.Ref()
	mine, before, ours := p.earlier.wrote(ref)
	m.now, m.before, m.Again = now, now, ours
	if ours {
		m.before = before
	}
	if m.want != nil {
		sum := sha256.Sum256(said(m.want))
		m.Digest = hex.EncodeToString(sum[:8])
	}
	switch {
	case p.src.inPlace || same(now, m.want):
		m.Does, m.Ours = Unchanged, ours && !p.src.inPlace
	case now == nil:
		m.Does, m.Ours = Creates, true
	case ours && same(now, mine) || atFirst(now) || p.options.Replace || ours && same(now, before):
		m.Does, m.Ours = Replaces, true
		if m.want == nil {
			m.Does = Deletes
		}
	case m.want == nil:
		p.note("%s was carried by an earlier run, the source has it no more, and somebody has changed it since: it stays", ref)
		return
	default:
		p.refuse("%s is there already and says something else: --replace writes over it, and rollback puts it back", ref)
		m.Does = Replaces
	}
	p.plan.Moves = append(p.plan.Moves, *m)
}

// atFirst tells of an object that nobody has made: built-in tiers, and what Calico or the controller has called default.
func atFirst(o client.Object) bool {
	switch v3.RefOf(o.(v3.Object)).Kind {
	case "Tier":
		return builtIn(o.GetName())
	case "FelixConfiguration", "KubeControllersConfiguration":
		return o.GetName() == "default"
	}
	return false
}

func builtIn(tier string) bool {
	return slices.ContainsFunc(store.BuiltInTiers(), func(t *v3.Tier) bool { return t.Name == tier })
}

// withdraw what an earlier run has written and the source has no more.
func (p *planner) withdraw(there objects) error {
	if p.earlier == nil {
		return nil
	}
	for _, old := range p.earlier.plan.Moves {
		ref := old.Ref()
		if !old.Ours || old.Does == Deletes || p.wanted[ref] != nil {
			continue
		}
		wrote, before, _ := p.earlier.wrote(ref)
		if !p.options.Prune || atFirst(wrote) { // the source may be half removed, or its file half written
			p.note("%s is not in the source any more, and stays: --prune deletes it", ref)
			before = there[ref]
		}
		p.decide(&Move{Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name, want: before}, there[ref])
	}
	return nil
}

// homeless policies are in tiers that there are not: Calico enforces them, and no store takes them (contract §1.3).
func (p *planner) homeless(there objects) {
	for _, m := range p.plan.Moves {
		tier := ""
		if m.want != nil {
			tier = store.TierOf(m.want)
		}
		ref := v3.Ref{Kind: "Tier", Name: tier}
		if tier == "" || there[ref] != nil || p.wanted[ref] != nil || builtIn(tier) {
			continue
		}
		p.refuse("%s is in tier %s, which the source does not have: make the tier there, or delete the policy", m.Ref(), tier)
	}
}

// inOrder puts tiers before what stands in them, and what is deleted behind, the other way round.
func (p *planner) inOrder() {
	rank := map[string]int{}
	for i, k := range p.kinds() {
		rank[k.Kind] = i
	}
	slices.SortStableFunc(p.plan.Moves, func(a, b Move) int {
		switch da, db := a.Does == Deletes, b.Does == Deletes; {
		case da && db:
			a, b = b, a
		case da:
			return 1
		case db:
			return -1
		}
		if c := rank[a.Kind] - rank[b.Kind]; c != 0 {
			return c
		}
		return a.Ref().Compare(b.Ref())
	})
	slices.SortStableFunc(p.plan.Left, func(a, b Left) int { return strings.Compare(a.What, b.What) })
	p.plan.Notes = slices.Compact(p.plan.Notes)
}

// Counts are how many objects of each kind a plan moves, and what it does with them.
func (p *Plan) Counts() map[string]map[Does]int {
	out := map[string]map[Does]int{}
	for _, m := range p.Moves {
		if out[m.Kind] == nil {
			out[m.Kind] = map[Does]int{}
		}
		out[m.Kind][m.Does]++
	}
	return out
}

// Reviewed refuses a plan that does more than another, which somebody has read, or that is of another source or store.
func (p *Plan) Reviewed(read *Plan) error {
	if read.Source != p.Source || read.Store != p.Store {
		return fmt.Errorf("%w: what was read is from %s into %s, and this from %s into %s", ErrRefused, read.Source, read.Store, p.Source, p.Store)
	}
	var more []string
	for _, m := range p.Moves {
		if m.Does != Unchanged && !slices.ContainsFunc(read.Moves, func(r Move) bool { return r.Ref() == m.Ref() && r.Does == m.Does && r.Digest == m.Digest }) {
			more = append(more, m.Ref().String())
		}
	}
	known := map[string]bool{}
	for _, l := range read.Left {
		known[l.What+l.Why] = true
	}
	for _, l := range p.Left {
		if l.Lost && !known[l.What+l.Why] {
			more = append(more, l.What)
		}
	}
	for _, t := range p.InTheWay {
		if !slices.ContainsFunc(read.InTheWay, func(r cleanup.Thing) bool { return r.String() == t.String() }) {
			more = append(more, t.String())
		}
	}
	for _, c := range p.CRDs {
		if !slices.Contains(read.CRDs, c) {
			more = append(more, "CustomResourceDefinition/"+c)
		}
	}
	if len(more) > 0 {
		return fmt.Errorf("%w: what was read does not have, or has otherwise, %s", ErrRefused, strings.Join(more, ", "))
	}
	return nil
}

// refused is the plan's refusals in one error.
func (p *Plan) refused() error {
	if len(p.Refused) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrRefused, strings.Join(p.Refused, "\n"))
}
