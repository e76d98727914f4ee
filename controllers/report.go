package controllers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/policy"
)

const kindReport = "NodeReport"

// reportPatience is how long an API server may take to answer a report: what is enforced does not wait for one that has gone without a word.
const reportPatience = 5 * time.Second

// progress is how far the agent has come in each kind that has a status, by resourceVersions: what it was told, and what of that is in
// force. Of pods and the like nobody asks, and they change all the time.
type progress struct {
	told, inForce map[string]string
	since         map[string]string // the latest version with which whoever rolls up first saw an object of the kind as it is
}

// note what an object of a kind says of how far its kind has come.
func (p *progress) note(e store.Event) {
	if p.told == nil {
		p.told = map[string]string{}
	}
	if e.Type != store.Put {
		return
	}
	if conditions, _ := conditionsOf(e.Object); conditions == nil {
		return
	}
	if now := e.Object.GetResourceVersion(); newer(now, p.told[e.Ref.Kind]) {
		p.told[e.Ref.Kind] = now
	}
}

// asked notes what the status of an object says of when it was first seen.
func (p *progress) asked(e store.Event) {
	if e.Type != store.Put {
		return
	}
	conditions, _ := conditionsOf(e.Object)
	if conditions == nil {
		return
	}
	if o := observedOf(*conditions); o.since != "" && o.digest == editionOfObject(e.Object).digest() && (p.since[e.Ref.Kind] == "" || newer(o.since, p.since[e.Ref.Kind])) {
		if p.since == nil {
			p.since = map[string]string{}
		}
		p.since[e.Ref.Kind] = o.since
	}
}

// anew says that the store is another, in which all that there is was written up to a revision, and has been told.
func (p *progress) anew(revision string) {
	p.since = nil
	for kind := range p.told {
		p.told[kind] = revision
	}
}

// reached says that all that was told is in force.
func (p *progress) reached() { p.inForce = maps.Clone(p.told) }

// newer tells whether one resourceVersion is of a later state than another. Those that cannot be compared are, unless they are one:
// then nobody is taken to have seen what he may not have seen.
func newer(a, b string) bool {
	c, err := resourceversion.CompareResourceVersion(a, b)
	if err != nil {
		return a != b
	}
	return c > 0
}

// report tells the store what the node enforces, unless that is what it was told last, and not before so long after the last time: a report
// that waits goes sooner when it may. failed is why not all is in force, or nil.
func (a *Agent) report(ctx context.Context, plan *policy.Plan, failed error, after time.Duration) {
	if !a.Reports || a.memory.remembered || errors.Is(failed, nft.ErrOwned) { // another agent reports what is in force
		return
	}
	if failed == nil {
		a.progress.reached()
		failed = a.rescue.refused()
	}
	now := a.status(plan, failed)
	if equality.Semantic.DeepEqual(now, a.reported) {
		return
	}
	if wait := after - time.Since(a.reportedAt); wait > 0 {
		a.reporting.by(time.Now().Add(wait))
		return
	}
	a.reportedAt = time.Now()
	r := &v1alpha1.NodeReport{Status: *now.DeepCopy()}
	r.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kindReport))
	r.Name, r.Status.ReportedAt = a.Node, metav1.NewTime(time.Now().Truncate(time.Second))
	writing, done := context.WithTimeout(ctx, reportPatience)
	_, err := a.Store.Put(writing, r)
	done()
	a.Metrics.reports.WithLabelValues(result(err)).Inc()
	switch {
	case err == nil:
		a.reported, a.unreported = now, ""
		a.reporting.stop()
		return
	case a.unreported != err.Error() && ctx.Err() == nil:
		a.unreported = err.Error()
		a.Log.Warn("what this node enforces cannot be reported; it is enforced all the same", "error", err)
	}
	a.reporting.later()
}

// status is the report but for its time.
func (a *Agent) status(plan *policy.Plan, failed error) *v1alpha1.NodeReportStatus {
	s := &v1alpha1.NodeReportStatus{AgentVersion: a.Version, Endpoints: len(plan.Endpoints)}
	if a.reported != nil {
		s.Conditions = slices.Clone(a.reported.Conditions)
	}
	enforcing := metav1.Condition{Type: v1alpha1.ConditionEnforcing, Status: metav1.ConditionTrue, Reason: v3.ReasonProgrammed}
	if failed != nil {
		enforcing.Status, enforcing.Reason, enforcing.Message = metav1.ConditionFalse, v3.ReasonFailed, cut(failed.Error())
	}
	apimeta.SetStatusCondition(&s.Conditions, enforcing)
	s.Policies = enforced(plan)
	for _, kind := range slices.Sorted(maps.Keys(a.progress.inForce)) {
		s.Observed = append(s.Observed, v1alpha1.ObservedKind{Kind: kind, ResourceVersion: a.progress.inForce[kind]})
	}
	notes := slices.Concat(a.lockout.notes, plan.Notes)
	for i, n := range notes {
		if i == v1alpha1.MaxNotes {
			s.NotesLeftOut = len(notes) - i
			break
		}
		s.Notes = append(s.Notes, v1alpha1.Note{Kind: n.About.Kind, Namespace: n.About.Namespace, Name: n.About.Name, Message: cutTo(n.Text, v1alpha1.MaxMessage)})
	}
	return s
}

// enforced is how many policies of a plan are in force.
func enforced(plan *policy.Plan) (n int) {
	for i := range plan.Policies {
		if p := &plan.Policies[i]; !p.Staged && p.Tier != "" {
			n++
		}
	}
	return n
}

// edition tells two states of an object apart, but for its status, by which no packet is judged.
type edition struct {
	uid                 string
	generation          int64
	labels, annotations map[string]string
}

// editionOf an event's object that has a status of ours, and whose generation counts the changes of its spec; none of any other.
func editionOf(e store.Event) (edition, bool) {
	if e.Type != store.Put || e.Object.GetGeneration() == 0 {
		return edition{}, false
	}
	conditions, _ := conditionsOf(e.Object)
	return editionOfObject(e.Object), conditions != nil
}

func editionOfObject(o client.Object) edition {
	return edition{string(o.GetUID()), o.GetGeneration(), o.GetLabels(), o.GetAnnotations()}
}

// digest is short, and another for another edition.
func (e edition) digest() string {
	text, _ := json.Marshal([]any{e.uid, e.generation, e.labels, e.annotations}) // of strings and a number: it cannot fail
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

func (e edition) same(o edition) bool {
	return e.uid == o.uid && e.generation == o.generation && maps.Equal(e.labels, o.labels) && maps.Equal(e.annotations, o.annotations)
}
