// Package convert puts policies of one API into the words of another: Kubernetes' NetworkPolicy into Calico's, all of Calico's together into Kubernetes',
// what older versions have into what is read today, and what is read today into what Calico keeps. It says what the target cannot say, field by field,
// and what becomes of it, and leaves it to others what to do about that. It knows objects, and no files, stores or clusters.
package convert

import (
	"fmt"
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Loss is what the target cannot say. What is converted without it means something else.
type Loss struct {
	Field string // of the source
	Why   string
	Then  Then
}

// Then is what becomes of a rule or an object whose part is lost.
type Then int

// What may be left out is, and what may not is an error for whoever asks that nothing be opened.
const (
	Differs Then = iota // it is left out, and what that does is not known here
	Denies              // it is left out: what it alone allows is denied
	Nothing             // it is left out, and no packet fares otherwise
	Opens               // it cannot be left out: what it denies would be allowed
	Frozen              // nothing is lost today: it is a copy of what other objects say, and does not follow them
)

// String says it in a person's words.
func (t Then) String() string {
	return [...]string{Differs: "left out", Denies: "left out: what it alone allows is denied", Nothing: "left out: no packet fares otherwise",
		Opens: "not to be left out: more would be allowed", Frozen: "a copy as of now"}[t]
}

// String is one line.
func (l Loss) String() string { return l.Field + ": " + l.Why }

// losses in the order in which they are met.
type losses []Loss

func (l *losses) add(field, format string, args ...any) {
	*l = append(*l, Loss{Field: field, Why: fmt.Sprintf(format, args...)})
}

// meta is what people wrote of an object's metadata.
func meta(m *metav1.ObjectMeta) metav1.ObjectMeta {
	out := metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, Labels: maps.Clone(m.Labels)}
	for k, v := range m.Annotations {
		if k == lastApplied {
			continue
		}
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations[k] = v
	}
	return out
}
