package controllers

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

// causes are why the kernel's table is programmed: what changed since it last was.
type causes struct {
	names []string // some of them
	more  int
	since []time.Time // when the store told of it
}

// maxCauses are named, the others counted.
const maxCauses = 5

func (c *causes) add(name string) {
	if len(c.names) < maxCauses {
		c.names = append(c.names, name)
	} else {
		c.more++
	}
}

func (c *causes) object(ref v3.Ref) { c.add(ref.String()) }

func (c *causes) came(b batch) { c.since = append(c.since, b.told) }

// said is for people.
func (c *causes) said() string {
	switch {
	case len(c.names) == 0:
		return "tried again"
	case c.more > 0:
		return fmt.Sprintf("%s and %d more", strings.Join(c.names, ", "), c.more)
	}
	return strings.Join(c.names, ", ")
}

// waited is how long each batch did.
func (c *causes) waited() (out []time.Duration) {
	for _, t := range c.since {
		out = append(out, time.Since(t))
	}
	return out
}

// starts are the pods of a node from when they had their network until their policy is in force, each once.
type starts struct {
	seen    map[v3.Ref]types.UID
	waiting map[v3.Ref]time.Time
}

func (s *starts) note(e store.Event, node string) {
	if s.seen == nil {
		s.seen, s.waiting = map[v3.Ref]types.UID{}, map[v3.Ref]time.Time{}
	}
	pod, ok := e.Object.(*corev1.Pod)
	seen, has := s.seen[e.Ref]
	switch {
	case e.Type == store.Deleted:
		delete(s.seen, e.Ref)
		delete(s.waiting, e.Ref)
	case !ok || pod.Spec.NodeName != node || pod.Spec.HostNetwork || len(pod.Status.PodIPs) == 0 || has && seen == pod.UID:
	default:
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReadyToStartContainers && c.Status == corev1.ConditionTrue {
				s.seen[e.Ref], s.waiting[e.Ref] = pod.UID, c.LastTransitionTime.Time
			}
		}
	}
}

// done gives how long each has waited; nothing of those that ran before the agent did.
func (s *starts) done(first bool) (out []time.Duration) {
	for _, since := range s.waiting {
		if !first {
			out = append(out, time.Since(since))
		}
	}
	clear(s.waiting)
	return out
}
