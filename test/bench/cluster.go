package main

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/scenario"
)

// cluster is pods and global policies, as one node sees them:
//
//	local pods on node n0, the rest elsewhere; each in one of 50 groups and of 1,000 apps, and all of kind "pod"
//	policies select a group each, so that a local pod has one in 50 of them; each has five rules, each of which lets in the pods of
//	one app to a port, but for one policy in a group that has a rule for all pods
//
// With 1,000 policies that is 20 for each endpoint, 1,000 sets, and one of them holds every pod.
type cluster struct{ pods, local, policies int }

const (
	groups = 50
	apps   = 1000
)

// each gives the objects, one at a time: nothing else holds them.
func (c cluster) each(yield func(client.Object)) {
	for i := range 20 {
		yield(scenario.Namespace(fmt.Sprintf("ns%d", i), map[string]string{"team": fmt.Sprintf("t%d", i%5)}))
	}
	for i := range c.policies {
		yield(c.policy(i, 80))
	}
	for i := range c.pods {
		node := "n0"
		if i >= c.local {
			node = fmt.Sprintf("n%d", 1+i/200)
		}
		yield(c.pod(i, node, i))
	}
}

// pod i on a node, of the app by the number.
func (c cluster) pod(i int, node string, app int) client.Object {
	return scenario.Pod(fmt.Sprintf("ns%d", i%20), fmt.Sprintf("p%d", i), node, []string{fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)},
		map[string]string{"kind": "pod", "group": fmt.Sprintf("g%d", i%groups), "app": fmt.Sprintf("a%d", app%apps)})
}

// policy i, whose rules are for five ports from the first on.
func (c cluster) policy(i, first int) client.Object {
	p := &v3.GlobalNetworkPolicy{TypeMeta: metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "GlobalNetworkPolicy"}}
	p.Name = fmt.Sprintf("policy-%d", i)
	order, tcp := float64(i), intstr.FromString("TCP")
	p.Spec.Order, p.Spec.Selector, p.Spec.Types = &order, fmt.Sprintf("group == 'g%d'", i%groups), []v3.PolicyType{v3.PolicyTypeIngress}
	for j := range 5 {
		from := fmt.Sprintf("app == 'a%d'", (i*5+j)%apps)
		if j == 4 && i < groups {
			from = "kind == 'pod'"
		}
		p.Spec.Ingress = append(p.Spec.Ingress, v3.Rule{Action: v3.Allow, Protocol: &tcp, Source: v3.EntityRule{Selector: from},
			Destination: v3.EntityRule{Ports: []intstr.IntOrString{intstr.FromInt32(int32(first + (i/groups)*5 + j))}}})
	}
	return p
}

// index of node n0, and how long it took to tell it all, the making of the objects left out.
func (c cluster) index() (x *policy.Index, took time.Duration, err error) {
	x = policy.NewIndex("n0", policy.Options{})
	var some []client.Object
	tell := func() {
		begin := time.Now()
		for _, o := range some {
			if failed := x.Set(o); failed != nil && err == nil {
				err = failed
			}
		}
		took, some = took+time.Since(begin), some[:0]
	}
	c.each(func(o client.Object) {
		if some = append(some, o); len(some) == 1000 {
			tell()
		}
	})
	tell()
	return x, took, err
}
