package store

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// follows makes a follower of kinds whose reflectors are the test.
func follows(kinds ...string) (*follower, []*feed) {
	f := &follower{seed: maphash.MakeSeed(), bell: make(chan struct{}, 1), pending: map[v3.Ref]Event{}, complaints: map[string]bool{}}
	for _, k := range kinds {
		f.feeds = append(f.feeds, &feed{follower: f, kind: refKind(k), known: map[v3.Ref]uint64{}, doubted: map[v3.Ref]bool{}})
	}
	return f, f.feeds
}

func namespaceAt(name, version string, labels ...string) *corev1.Namespace {
	n := namespace(name, labels...)
	n.ResourceVersion = version
	return n
}

func nodeAt(name, version string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: version}}
}

// taken is what a follower tells, in words.
func taken(f *follower) (out []string) {
	errs, events := f.take()
	for _, err := range errs {
		out = append(out, "!"+err.Error())
	}
	for _, e := range events {
		switch e.Type {
		case Put:
			out = append(out, "+"+e.Ref.Name)
		case Deleted:
			out = append(out, "-"+e.Ref.Name)
		case Synced:
			out = append(out, fmt.Sprintf("synced %s %t", e.Revision, e.Anew))
		}
	}
	return out
}

// What reflectors say becomes what is told: nothing before every kind was told whole, nothing twice, everything again from a store that went back.
func TestFollower(t *testing.T) {
	f, feeds := follows("Namespace", "Node")
	namespaces, nodes := feeds[0], feeds[1]
	steps := []struct {
		what string
		do   func() error
		want []string
	}{
		{"one kind of two", func() error { return namespaces.Replace([]any{namespaceAt("a", "5"), namespaceAt("b", "6")}, "7") }, nil},
		{"the other", func() error { return nodes.Replace([]any{nodeAt("n", "9")}, "10") }, []string{"+a", "+b", "+n", "synced 10 false"}},
		{"listed again", func() error { return namespaces.Replace([]any{namespaceAt("a", "5"), namespaceAt("b", "6")}, "12") }, nil},
		{"written, and nothing that policy asks", func() error { return namespaces.Update(namespaceAt("a", "13")) }, nil},
		{"labelled", func() error { return namespaces.Update(namespaceAt("a", "14", "x=y")) }, []string{"+a", "synced 14 false"}},
		{"made, changed and deleted before anybody looked", func() error {
			return errors.Join(namespaces.Add(namespaceAt("c", "15")), namespaces.Update(namespaceAt("c", "16", "x=y")), namespaces.Delete(namespaceAt("c", "17")))
		}, []string{"-c", "synced 17 false"}},
		{"a list that one is missing in", func() error { return namespaces.Replace([]any{namespaceAt("a", "14", "x=y")}, "20") }, []string{"-b", "synced 20 false"}},
		{"deleted, which was never told", func() error { return namespaces.Delete(namespaceAt("z", "21")) }, nil},
		{"an older copy of the store", func() error { return namespaces.Replace([]any{namespaceAt("a", "14", "x=y")}, "15") }, []string{"+a", "synced 15 true"}},
		{"and on", func() error { return nodes.Add(nodeAt("m", "22")) }, []string{"+m", "synced 22 false"}},
		{"an older copy without some", func() error { return nodes.Replace([]any{nodeAt("n", "9")}, "11") }, []string{"+n", "-m", "synced 15 true"}},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			t.Fatal(err)
		}
		if got := taken(f); !slices.Equal(got, s.want) {
			t.Errorf("%s: told %q, want %q", s.what, got, s.want)
		}
	}
}

// An API server that asks for patience is given some, and then complained of.
func TestFollowerIsPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, feeds := follows("Namespace")
		busy := apierrors.NewTooManyRequests("later", 1)
		for range 10 {
			feeds[0].failed(busy)
			time.Sleep(passingFor / 10)
		}
		if got := taken(f); len(got) != 0 {
			t.Errorf("told %q after a minute", got)
		}
		feeds[0].failed(busy)
		if got := taken(f); len(got) != 1 {
			t.Errorf("told %q after more", got)
		}
		feeds[0].recovered()
		feeds[0].failed(busy)
		if got := taken(f); len(got) != 0 {
			t.Errorf("told %q, and it had recovered", got)
		}
	})
}

// One trouble is told once, however many kinds it stops, and again after it was over.
func TestFollowerComplains(t *testing.T) {
	f, feeds := follows("Namespace", "Node", v3.KindKubernetesClusterNetworkPolicy)
	away := errors.New("connection refused")
	expect := func(what string, want ...string) {
		t.Helper()
		if got := taken(f); !slices.Equal(got, want) {
			t.Errorf("%s: told %q, want %q", what, got, want)
		}
	}
	for _, d := range feeds[:2] {
		d.failed(away)
		d.failed(away)
	}
	expect("away", "!Namespace: connection refused")
	feeds[0].recovered()
	feeds[0].failed(away)
	expect("one of two was back")
	feeds[0].recovered()
	feeds[1].recovered()
	feeds[1].failed(away)
	expect("back and away", "!Node: connection refused")
	for _, passing := range []error{apierrors.NewResourceExpired("old"), apierrors.NewTooManyRequests("later", 1)} {
		feeds[0].failed(passing)
	}
	expect("what passes")

	if err := errors.Join(feeds[0].Replace(nil, "1"), feeds[1].Replace(nil, "1")); err != nil {
		t.Fatal(err)
	}
	expect("a kind is missing")
	feeds[2].failed(apierrors.NewNotFound(schema.GroupResource{}, ""))
	got := taken(f)
	if len(got) != 2 || got[1] != "synced 1 false" {
		t.Errorf("a foreign kind that there is not: %q", got)
	}
}

// Of an object that cannot be decoded all but its spec stays: whoever writes its status or its finalizers would else take the others' away.
func TestWithoutSpec(t *testing.T) {
	d := &feed{kind: refKind("GlobalNetworkSet")}
	u := func(status any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
			"metadata": map[string]any{"name": "a", "uid": "u", "resourceVersion": "7", "generation": int64(2), "labels": map[string]any{"x": "y"},
				"finalizers": []any{"example.com/f"}, "deletionTimestamp": "2026-01-01T00:00:00Z"},
			"spec": map[string]any{"nets": "text"}, "status": status}}
	}
	for what, c := range map[string]struct {
		status     any
		conditions int
	}{
		"a status": {map[string]any{"conditions": []any{map[string]any{"type": "Accepted", "status": "False"}}}, 1}, "a bad one": {"text", 0},
	} {
		o, err := d.convert(u(c.status))
		if err != nil {
			t.Fatal(err)
		}
		got := o.object.(*v3.GlobalNetworkSet)
		if o.corrupt == nil || got.UID != "u" || got.ResourceVersion != "7" || got.Generation != 2 || got.Labels["x"] != "y" || len(got.Finalizers) != 1 ||
			got.DeletionTimestamp == nil || len(got.Status.Conditions) != c.conditions || len(got.Spec.Nets) != 0 {
			t.Errorf("%s: %+v, %v", what, got, o.corrupt)
		}
	}
}
