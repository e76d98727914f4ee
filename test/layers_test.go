package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tierwall/tierwall/"

// line is what one package may import: of ours, and of others by the beginning of their path. The standard library is free.
type line struct {
	ours, others []string
	pure         bool // values in, values out: it does not reach a store, a kernel, a cluster or a metric, however indirectly
}

var apimachinery = []string{"k8s.io/apimachinery/", "k8s.io/api/"}

// lines is the import rule: the import graph is the data flow, and a package imports only what is to its left.
var lines = map[string]line{
	"apis/selector":        {pure: true},
	"apis/v3":              {ours: []string{"apis/selector"}, others: apimachinery, pure: true},
	"apis/v1alpha1":        {others: apimachinery, pure: true},
	"apis/convert":         {ours: []string{"apis/selector", "apis/v3"}, others: append([]string{"sigs.k8s.io/network-policy-api/apis/"}, apimachinery...), pure: true},
	"config/crd":           {others: []string{"k8s.io/apiextensions-apiserver/", "k8s.io/apiserver/pkg/", "k8s.io/kube-openapi/pkg/validation/spec", "k8s.io/apimachinery/", "sigs.k8s.io/yaml"}},
	"config/systemd":       {},
	"config/helm/generate": {ours: []string{"config/crd"}, others: []string{"sigs.k8s.io/yaml"}},
	"dataplane/policy":     {ours: []string{"apis/selector", "apis/v3"}, others: append([]string{"sigs.k8s.io/network-policy-api/apis/", "go4.org/netipx"}, apimachinery...), pure: true},
	"dataplane/lint":       {ours: []string{"apis/selector", "apis/v3", "dataplane/policy"}, others: append([]string{"go4.org/netipx"}, apimachinery...), pure: true},
	"dataplane/reach":      {ours: []string{"apis/v3", "dataplane/policy"}, others: []string{"go4.org/netipx"}, pure: true},
	"dataplane/ruleset":    {ours: []string{"dataplane/policy"}, pure: true},
	"dataplane/nft":        {ours: []string{"dataplane/ruleset"}, others: []string{"github.com/google/nftables", "github.com/mdlayher/netlink", "github.com/vishvananda/netlink", "golang.org/x/sys/unix"}},
	"dataplane/leftovers":  {others: []string{"github.com/google/nftables", "github.com/vishvananda/netlink", "golang.org/x/sys/unix"}},
	"controllers/store": {ours: []string{"apis/v1alpha1", "apis/v3", "config/crd", "controllers/store/key", "controllers/store/pages"}, others: append([]string{"k8s.io/client-go/", "k8s.io/kube-openapi/pkg/validation/spec", "k8s.io/utils/ptr", "k8s.io/klog/", "github.com/go-logr/logr", "sigs.k8s.io/controller-runtime/", "go.etcd.io/bbolt", "sigs.k8s.io/network-policy-api/apis/",
		"github.com/fsnotify/fsnotify", "github.com/xrash/smetrics", "go.yaml.in/yaml/v3", "sigs.k8s.io/yaml", "sigs.k8s.io/json"}, apimachinery...)},
	"controllers/crds":    {ours: []string{"config/crd"}, others: append([]string{"k8s.io/apiextensions-apiserver/", "k8s.io/client-go/"}, apimachinery...)},
	"controllers/journal": {ours: []string{"controllers/store/pages"}, others: []string{"go.etcd.io/bbolt"}},
	"controllers/migrate": {ours: []string{"apis/convert", "apis/v3", "controllers/cleanup", "controllers/crds", "controllers/journal", "controllers/store"}, others: append([]string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime/"}, apimachinery...)},
	"controllers/cleanup": {ours: []string{"controllers/crds", "controllers/journal"}, others: []string{"k8s.io/client-go/", "k8s.io/apimachinery/"}},
	"controllers/admission": {ours: []string{"apis/v3", "controllers/store"},
		others: append([]string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime/"}, apimachinery...)},
	"controllers":             {ours: []string{"apis/v1alpha1", "apis/v3", "controllers/admission", "controllers/crds", "controllers/store", "dataplane/nft", "dataplane/policy", "dataplane/ruleset"}, others: append([]string{"k8s.io/client-go/", "github.com/go-logr/logr", "sigs.k8s.io/controller-runtime/", "sigs.k8s.io/network-policy-api/apis/", "github.com/prometheus/"}, apimachinery...)},
	"controllers/store/pages": {others: []string{"go.etcd.io/bbolt"}},
	"controllers/store/key":   {others: []string{"go.etcd.io/bbolt"}},
	"cli/complete":            {ours: []string{"controllers/store/key"}},
	"cli/early":               {ours: []string{"cli/complete", "controllers/store/key"}},
	"cli/draw":                {ours: []string{"apis/v3", "dataplane/reach"}},
	"cli":                     {ours: []string{""}, others: []string{""}},
	"test/scenario":           {ours: []string{"apis/v3", "controllers/store", "dataplane/policy"}, others: []string{""}},
	"test/lab":                {ours: []string{"dataplane/policy"}, others: []string{""}},
	"test/lab/replay":         {ours: []string{"controllers/store", "dataplane/policy", "test/lab"}, others: []string{""}},
	"test/lab/churn":          {},
	"test/lab/wire":           {ours: []string{"dataplane/policy"}, others: []string{"github.com/vishvananda/", "golang.org/x/sys/unix"}},
	"test/lab/demo":           {ours: []string{"dataplane/policy", "test/lab", "test/scenario"}, others: []string{""}},
	"test/bench":              {ours: []string{"apis/v3", "controllers/store", "dataplane/nft", "dataplane/policy", "dataplane/ruleset", "test/scenario"}, others: []string{""}},
	"test/kube": {ours: []string{"config/crd"}, others: append([]string{"github.com/vishvananda/", "golang.org/x/sys/unix", "k8s.io/client-go/", "sigs.k8s.io/controller-runtime/",
		"k8s.io/apiextensions-apiserver/", "github.com/go-logr/logr", "sigs.k8s.io/yaml"}, apimachinery...)},
	"test/calico":   {others: []string{"k8s.io/client-go/", "k8s.io/apimachinery/"}},
	"test/kube/try": {ours: []string{"test/kube"}},
	"test/kube/pod": {},
	"test/tally":    {},
	"test/verdicts": {},
	"test":          {}, // this test
}

// impure is what a pure package does not reach.
var impure = []string{"k8s.io/client-go/", "sigs.k8s.io/controller-runtime", "github.com/google/nftables", "github.com/mdlayher/", "github.com/vishvananda/",
	"go.etcd.io/bbolt", "github.com/prometheus/"}

// worldly is what a pure package does not import itself: no context, clock, file, socket, goroutine's lock, logger or chance.
var worldly = []string{"context", "crypto/rand", "io/fs", "log", "log/slog", "math/rand", "math/rand/v2", "net", "net/http", "os", "os/exec", "sync", "syscall", "time"}

type goPackage struct {
	ImportPath    string
	Standard      bool
	Imports, Deps []string
}

func list(t *testing.T, args ...string) (out []goPackage) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Standard,Imports,Deps"}, args...)...)
	cmd.Dir = ".."
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	for {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
}

// watch looks at every file: go test keeps a result while what the test itself has looked at stays, and go list's looks do
// not count.
func watch(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("..", func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && (e.Name() == ".git" || e.Name() == "bin") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestLayers(t *testing.T) {
	watch(t)
	standard := map[string]bool{"C": true}
	for _, p := range list(t, "-deps", "./...") {
		standard[p.ImportPath] = p.Standard
	}
	seen := map[string]bool{}
	for _, p := range list(t, "./...") {
		name := strings.TrimPrefix(p.ImportPath, module)
		l, ok := lines[name]
		if !ok {
			t.Errorf("package %s has no line here: say what it may import", name)
			continue
		}
		seen[name] = true
		for _, i := range p.Imports {
			if !l.allows(i, standard[i]) {
				t.Errorf("%s imports %s, which its line does not have", name, i)
			}
		}
		for _, d := range p.Deps {
			if !l.reaches(d) {
				t.Errorf("%s is pure, and reaches %s", name, d)
			}
		}
	}
	for name := range lines {
		if !seen[name] {
			t.Errorf("there is a line for %s, and no such package", name)
		}
	}
}

func (l line) allows(path string, standard bool) bool {
	if standard {
		return !l.pure || !slices.Contains(worldly, path)
	}
	if own, ok := strings.CutPrefix(path, module); ok {
		return slices.Contains(l.ours, own) || slices.Contains(l.ours, "")
	}
	return hasPrefix(l.others, path)
}

// reaches tells whether the package may be built of another, through whatever stands between.
func (l line) reaches(path string) bool { return !l.pure || !hasPrefix(impure, path) }

func hasPrefix(prefixes []string, s string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// The rule refuses what it is there to refuse.
func TestTheRuleRefuses(t *testing.T) {
	for _, c := range []struct {
		pkg, path        string
		standard, allows bool
	}{
		{"apis/v3", module + "apis/selector", false, true},
		{"apis/v3", module + "dataplane/policy", false, false},
		{"apis/selector", "k8s.io/apimachinery/pkg/labels", false, false},
		{"dataplane/policy", "net/netip", true, true},
		{"dataplane/policy", "net", true, false},
		{"dataplane/policy", "time", true, false},
		{"dataplane/policy", module + "dataplane/ruleset", false, false},
		{"dataplane/ruleset", module + "dataplane/policy", false, true},
		{"dataplane/ruleset", module + "dataplane/nft", false, false},
		{"dataplane/nft", "os", true, true},
		{"dataplane/nft", module + "dataplane/policy", false, false},
		{"controllers/store", module + "controllers", false, false},
		{"controllers", module + "cli", false, false},
		{"test/lab", module + "cli", false, false},
		{"cli", module + "controllers", false, true},
	} {
		if got := lines[c.pkg].allows(c.path, c.standard); got != c.allows {
			t.Errorf("may %s import %s: %v", c.pkg, c.path, got)
		}
	}
	for _, path := range impure {
		if lines["dataplane/policy"].reaches(path) || !lines["dataplane/nft"].reaches(path) {
			t.Errorf("%s: the pure dataplane/policy may be built of it, or dataplane/nft may not", path)
		}
	}
}
