// Package convert puts policies of one API into the words of another: Kubernetes' NetworkPolicy and Calico's into each other, and what older
// versions have into what is read today. It says what the target cannot say, field by field, and leaves it to others what to do about that.
// It knows objects, and no files, stores or clusters.
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
}

// String is one line.
func (l Loss) String() string { return l.Field + ": " + l.Why }

// losses in the order in which they are met.
type losses []Loss

func (l *losses) add(field, format string, args ...any) {
	*l = append(*l, Loss{field, fmt.Sprintf(format, args...)})
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
