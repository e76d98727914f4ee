package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/scenario"
)

var (
	clusters = flag.Int("clusters", 10, "random clusters to send packets in")
	seed     = flag.Int("seed", 1, "of the first random cluster")
)

// sample is a random cluster that a store accepts, and flows in it.
type sample struct {
	objects []client.Object
	flows   []policy.FlowSpec
}

func anySample(t *rapid.T) (s sample) {
	s.objects = withTiers(scenario.Cluster(t))
	x := policy.NewIndex("", policy.Options{})
	for _, o := range s.objects {
		if err := x.Set(o); err != nil {
			t.Fatal(err)
		}
	}
	plan := x.Plan()
	for range 40 {
		f := scenario.AnyFlow(t, plan)
		spec := policy.FlowSpec{From: f.Src.String(), To: f.Dst.String(), Protocol: policy.ProtocolText(fmt.Sprint(f.Proto)), Port: f.DstPort, SrcPort: f.SrcPort}
		if f.Proto == policy.ProtoICMP || f.Proto == policy.ProtoICMPv6 {
			spec.ICMPType, spec.ICMPCode = &f.ICMPType, f.ICMPCode
		}
		s.flows = append(s.flows, spec)
	}
	return s
}

// withTiers adds the tiers that policies name and nobody made: a store refuses a policy without its tier.
func withTiers(objs []client.Object) []client.Object {
	have := map[string]bool{"default": true, "kube-admin": true, "kube-baseline": true}
	for _, o := range objs {
		if t, ok := o.(*v3.Tier); ok {
			have[t.Name] = true
		}
	}
	for _, o := range objs {
		name := ""
		switch o := o.(type) {
		case *v3.NetworkPolicy:
			name = o.Spec.Tier
		case *v3.GlobalNetworkPolicy:
			name = o.Spec.Tier
		case *v3.StagedNetworkPolicy:
			name = o.Spec.Tier
		case *v3.StagedGlobalNetworkPolicy:
			name = o.Spec.Tier
		}
		if name != "" && !have[name] {
			have[name] = true
			objs = append(objs, &v3.Tier{TypeMeta: metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: "Tier"}, ObjectMeta: metav1.ObjectMeta{Name: name}})
		}
	}
	return objs
}

// Any cluster, any flow: the packets do what trace says.
func TestRandomClustersWithRealPackets(t *testing.T) {
	needNamespaces(t)
	tierctl := buildTierctl(t)
	samples := rapid.Custom(anySample)
	for i := range *clusters {
		s := samples.Example(*seed + i)
		t.Run(fmt.Sprintf("seed=%d", *seed+i), func(t *testing.T) {
			t.Parallel()
			s.replay(t, tierctl)
		})
	}
}

func (s *sample) replay(t *testing.T, tierctl string) {
	dir := t.TempDir()
	r := &replay{files: files{filepath.Join(dir, "objects.json")}, flows: filepath.Join(dir, "flows.jsonl"), tierctl: tierctl, action: "Drop", say: t.Logf}
	objects, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": s.objects})
	fatal(t, err)
	fatal(t, os.WriteFile(r.files[0], objects, 0o600))
	var lines bytes.Buffer
	for _, f := range s.flows {
		fatal(t, json.NewEncoder(&lines).Encode(f))
	}
	fatal(t, os.WriteFile(r.flows, lines.Bytes(), 0o600))
	var out, errs bytes.Buffer
	if err := r.run(t.Context(), &out, &errs); err != nil {
		t.Fatalf("%v\n%s\nflows:\n%s\nobjects:\n%s", err, errs.String(), lines.String(), objects)
	}
}
