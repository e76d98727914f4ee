package calico

import (
	"context"
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/tierwall/tierwall/controllers/cleanup"
	"github.com/tierwall/tierwall/test/kube"
)

func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site is an API server with Calico.
type site struct {
	t       *testing.T
	config  *rest.Config
	dynamic dynamic.Interface
}

func newSite(t *testing.T) *site {
	t.Helper()
	config := kube.Start(t)
	d, err := dynamic.NewForConfig(config)
	fatal(t, err)
	return &site{t, config, d}
}

func (s *site) install(c *Calico) {
	s.t.Helper()
	begun := time.Now()
	fatal(s.t, c.Install(s.t.Context(), s.config))
	s.t.Logf("%d objects installed in %.1f s", len(c.Objects), time.Since(begun).Seconds())
}

func (s *site) find() *cleanup.Inventory {
	s.t.Helper()
	c, err := cleanup.Open(s.config)
	fatal(s.t, err)
	i, err := c.Find(s.t.Context(), cleanup.Options{})
	fatal(s.t, err)
	return i
}

func (s *site) get(groupVersion, resource, name string) *unstructured.Unstructured {
	s.t.Helper()
	gv, err := schema.ParseGroupVersion(groupVersion)
	fatal(s.t, err)
	u, err := s.dynamic.Resource(gv.WithResource(resource)).Get(s.t.Context(), name, metav1.GetOptions{})
	fatal(s.t, err)
	return u
}

// thing of an inventory by its name.
func thing(t *testing.T, i *cleanup.Inventory, name string) cleanup.Thing {
	t.Helper()
	n := slices.IndexFunc(i.Things, func(x cleanup.Thing) bool { return x.String() == name })
	if n < 0 {
		t.Fatalf("there is no %s", name)
	}
	return i.Things[n]
}

// Each way is there as it says, with what is wrong with it; who looks for what Calico left finds every object that was made.
func TestInstall(t *testing.T) {
	s := newSite(t)
	objects := Objects(100, 10)

	file := &Calico{Way: Manifest, Objects: objects}
	s.install(file)
	s.install(file) // once more is no harm
	i := s.find()
	if running := i.Running(); len(running) != 3 {
		t.Errorf("%d workloads of the manifest run: %v", len(running), running)
	}
	if tier := thing(t, i, "Tier/tier-05"); len(tier.Waits) != 1 || len(tier.Orphaned) != 0 {
		t.Errorf("while Calico runs %s waits for %v, and nobody takes away %v", &tier, tier.Waits, tier.Orphaned)
	}
	fatal(t, file.Stop(t.Context(), s.config))
	i = s.find()
	if running := i.Running(); len(running) != 0 {
		t.Errorf("stopped, and %v run", running)
	}
	if tier := thing(t, i, "Tier/tier-05"); len(tier.Orphaned) != 1 {
		t.Errorf("nobody takes away %v of %s", tier.Orphaned, &tier)
	}
	found := 0
	for _, x := range i.Things {
		if x.APIVersion == v1Group+"/v1" {
			found++
		}
	}
	if want := len(objects) - Teams; found != want {
		t.Errorf("%d objects of %s are found, and %d were made", found, v1Group, want)
	}

	s.install(&Calico{Way: Operator})
	if running := s.find().Running(); len(running) != 8 {
		t.Errorf("%d workloads of the operator's run: %v", len(running), running)
	}
	fatal(t, (&Calico{Way: Operator}).Stop(t.Context(), s.config))

	left := &Calico{Way: AKS, Faults: AllFaults, Objects: objects}
	s.install(left)
	s.faulty(left)
}

// Where Calico's CRDs are of the API that people use they are Calico's, Tierwall's of the same names or not.
func TestNative(t *testing.T) {
	s := newSite(t)
	c := &Calico{Way: Native, Faults: AllFaults, Gone: true, Objects: Objects(20, 5)}
	s.install(c)
	s.faulty(c)
	i := s.find()
	if tiers := thing(t, i, "CustomResourceDefinition/tiers.projectcalico.org"); tiers.Kept != "" {
		t.Errorf("native CRDs are not Calico's: %s", tiers.Kept)
	}
	for _, name := range []string{"ValidatingAdmissionPolicy/protect-builtin-tiers.projectcalico.org", "MutatingAdmissionPolicy/tierlabel.policy.projectcalico.org", "DatastoreMigration/v1-to-v3"} {
		thing(t, i, name)
	}
}

// faulty fails when a fault is not there.
func (s *site) faulty(c *Calico) {
	s.t.Helper()
	i := s.find()
	if hook := thing(s.t, i, "ValidatingWebhookConfiguration/calico-webhooks"); len(hook.Trouble) != 1 {
		s.t.Errorf("the webhook has no trouble: %v", hook)
	}
	crd, tier := thing(s.t, i, "CustomResourceDefinition/ippools."+c.group()), thing(s.t, i, "Tier/going")
	for _, x := range []cleanup.Thing{crd, tier} {
		if !x.Terminating {
			s.t.Errorf("%s is not being deleted", &x)
		}
	}
	if len(tier.Orphaned) != 1 {
		s.t.Errorf("%s has no finalizer that nobody takes away", &tier)
	}
	if c.Way == Native {
		return
	}
	if x := thing(s.t, i, "Installation/default"); len(x.Orphaned) != 3 {
		s.t.Errorf("%s has orphaned finalizers %v", &x, x.Orphaned)
	}
	if x := thing(s.t, i, "Namespace/calico-system"); !x.Terminating {
		s.t.Errorf("%s is not being deleted", &x)
	}
	fatal(s.t, wait.PollUntilContextTimeout(s.t.Context(), 50*time.Millisecond, 20*time.Second, true, func(ctx context.Context) (bool, error) {
		u := s.get("apiregistration.k8s.io/v1", "apiservices", "v3.projectcalico.org")
		_, stale, _ := unstructured.NestedMap(u.Object, "spec", "service")
		return stale && !holds(u, "Available"), nil
	}))
	if i := s.find(); len(i.Unknown) > 0 {
		s.t.Errorf("what could not be looked at: %q", i.Unknown)
	}
	_, err := s.dynamic.Resource(schema.GroupVersionResource{Group: v3Group, Version: "v3", Resource: "tiers"}).List(s.t.Context(), metav1.ListOptions{})
	if !apierrors.IsServiceUnavailable(err) {
		s.t.Errorf("behind a stale API service tiers are listed: %v", err)
	}
}
