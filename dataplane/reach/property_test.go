package reach

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/test/scenario"
)

// verdict of one packet, as the whole of its class gets it.
func (v *view) verdict(f *policy.Flow) policy.Action {
	s := v.space
	p := pair{s.find(f.Src), s.find(f.Dst)}
	if v.outcome(p).allowed.has(s.atom(f)) {
		return policy.Allow
	}
	return policy.Deny
}

func planOf(t testing.TB, objs ...client.Object) *policy.Plan {
	t.Helper()
	x := policy.NewIndex("", policy.Options{})
	for _, o := range objs {
		_ = x.Set(o) // what is not understood fails closed
	}
	return x.Plan()
}

// Whatever packet is traced, its class has its verdict: between all addresses of random clusters and beside them, at and beside every
// boundary of their rules, with and without what is staged.
func TestTraceIsTheJudge(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := planOf(t, scenario.Cluster(rt)...)
		for _, staged := range []bool{false, true} {
			s := newSpace(Options{Staged: staged}, p)
			v := s.views[0]
			everyOutcome(s, v)
			for range 40 {
				f := anyPacket(rt, s, p)
				got := p.Trace(f)
				want := got.Outcome
				if staged && got.Staged != nil {
					want = *got.Staged
				}
				if have := v.verdict(&f); have != want.Verdict {
					rt.Fatalf("staged %t: %+v: have %s, Trace says %s: %+v\n%s", staged, f, have, want.Verdict, want.Steps, p)
				}
			}
		}
	})
}

// everyOutcome answers for all pairs of classes, so that a packet that is asked for later is answered for by those that stand for its own.
func everyOutcome(s *space, v *view) {
	for a := range s.classes {
		for b := range s.classes {
			if s.classes[a].family == s.classes[b].family {
				for _, p := range s.pairs(a, b) {
					v.outcome(p)
				}
			}
		}
	}
}

// anyPacket is between any two points of the space, with what lies at or beside a boundary.
func anyPacket(t *rapid.T, s *space, p *policy.Plan) policy.Flow {
	if rapid.Bool().Draw(t, "of the scenario") {
		return scenario.AnyFlow(t, p)
	}
	src := rapid.SampledFrom(s.points).Draw(t, "source")
	var same []point
	for _, d := range s.points {
		if d.first.Is4() == src.first.Is4() {
			same = append(same, d)
		}
	}
	end := func(p point) netip.Addr { return rapid.SampledFrom([]netip.Addr{p.first, p.last}).Draw(t, "address") }
	f := policy.Flow{Src: end(src), Dst: end(rapid.SampledFrom(same).Draw(t, "destination"))}
	at := rapid.SampledFrom(s.protos).Draw(t, "protocol")
	beside := func(begins []int) int {
		return max(rapid.SampledFrom(begins).Draw(t, "at")-rapid.IntRange(0, 1).Draw(t, "before"), 0)
	}
	if f.Proto = at.number; f.Proto == 0 {
		f.Proto = 200
	}
	number, origin := beside(at.numbers), beside(at.origin)
	switch {
	case policy.HasPorts(f.Proto):
		f.DstPort, f.SrcPort = uint16(number), uint16(origin)
	case f.Proto == policy.ProtoICMP || f.Proto == policy.ProtoICMPv6:
		f.ICMPType, f.ICMPCode = uint8(number>>8), uint8(number)
	}
	return f
}

// Every flow of the corpus that no node translates gets its verdict from its class.
func TestCorpus(t *testing.T) {
	all, err := scenario.Load("../../test/scenarios")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, sc := range all {
		x, err := sc.Index("")
		if err != nil {
			t.Fatal(err)
		}
		p := x.Plan()
		enforced := newSpace(Options{}, p)
		everyOutcome(enforced, enforced.views[0])
		for _, f := range sc.Flows {
			flow, err := x.Flow(f.Spec)
			if err != nil {
				t.Fatal(err)
			}
			if flow.OrigDst.IsValid() || flow.Via != "" || flow.InIface != "" || flow.OutIface != "" || flow.Dst.IsLoopback() {
				continue
			}
			n++
			if have := enforced.views[0].verdict(&flow); have != f.Verdict {
				t.Errorf("%s: %s\nhave %s", sc.Name, f.Text, have)
			}
		}
	}
	if n < 500 {
		t.Errorf("only %d flows were asked for", n)
	}
}

// Two plans have a difference exactly where Trace tells them apart: a packet between ends that both know has another verdict if, and only
// if, Diff has a change for it; and a plan does not differ from itself.
func TestDiffMissesNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		objs := scenario.Cluster(rt)
		before := planOf(t, objs...)
		after := planOf(t, append(objs, replacements(rt, objs)...)...)
		if changes := Diff(before, before, Options{}); len(changes) > 0 {
			rt.Fatalf("a plan differs from itself: %+v", changes)
		}
		s := newSpace(Options{}, before, after)
		changes := Diff(before, after, Options{})
		for range 40 {
			f := anyPacket(rt, s, before)
			src, dst := s.find(f.Src), s.find(f.Dst)
			if s.points[src].strange || s.points[dst].strange || f.Proto == otherICMP(f.Src) {
				continue
			}
			was, is := before.Trace(f).Verdict, after.Trace(f).Verdict
			said := false
			for _, c := range changes {
				said = said || c.Only == "" && c.Before == was && s.isOf(&c.From, src) && s.isOf(&c.To, dst)
			}
			if was != is && !said {
				rt.Fatalf("%+v: %s before, %s after, and nothing is said of it: %+v", f, was, is, changes)
			}
			if v := s.views; v[0].verdict(&f) != was || v[1].verdict(&f) != is {
				rt.Fatalf("%+v: %s before, %s after by Trace; %s and %s by classes", f, was, is, v[0].verdict(&f), v[1].verdict(&f))
			}
		}
	})
}

func otherICMP(a netip.Addr) uint8 {
	return icmpOf(policy.AnyFamily ^ policy.FamilyOf(a))
}

// isOf tells whether a point is one of an end's.
func (s *space) isOf(e *End, point int) bool {
	if ref := s.owner(0, point); e.Kind != Outside {
		return slices.Contains(e.Members, ref)
	}
	return slices.ContainsFunc(e.Nets, func(n netip.Prefix) bool { return n.Contains(s.points[point].first) })
}

// replacements are policies of another cluster in place of those of one, and some that are new.
func replacements(t *rapid.T, objs []client.Object) (out []client.Object) {
	for _, o := range scenario.Cluster(t) {
		switch o.(type) {
		case *v3.NetworkPolicy, *v3.GlobalNetworkPolicy, *v3.Tier, *v3.FelixConfiguration:
			if rapid.Bool().Draw(t, "new") {
				out = append(out, o)
			}
		}
	}
	return out
}

// What Uses says a rule never decides, it decides of no packet; what it says it decides, some class has decided by it.
func TestUses(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := planOf(t, scenario.Cluster(rt)...)
		never := map[string]Use{}
		for _, u := range Uses(p) {
			if !u.Decides {
				if u.Why == "" {
					rt.Fatalf("nothing is said of why: %+v", u)
				}
				never[fmt.Sprint(u.Policy, u.Direction, u.Rule)] = u
			}
		}
		s := newSpace(Options{}, p)
		for range 40 {
			f := anyPacket(rt, s, p)
			if f.Proto == otherICMP(f.Src) {
				continue
			}
			for _, step := range p.Trace(f).Steps {
				if u, ok := never[fmt.Sprint(step.Policy, step.Direction, step.Rule)]; ok && step.Rule >= 0 && step.Action != policy.None {
					rt.Fatalf("%+v meets %+v, of which it was said: %+v\n%s", f, step, u, p)
				}
			}
		}
	})
}
