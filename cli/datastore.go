package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tierwall/tierwall/controllers/store"
)

const (
	boltDatastore = "bolt"
	kubeDatastore = "kubernetes"
	etcdDatastore = "etcdv3" // calicoctl's
)

// boltDefault is the file of a host alone.
var boltDefault = "/var/lib/tierwall/tierwall.db"

// datastoreFlag is of every command that reads or writes objects. Its variable is no EnvVars, which would hide who said it: see knobs.
func datastoreFlag() cli.Flag { return datastoreFlagOr("") }

// agentDatastoreFlag is of what runs on its own: where nobody has said where the objects are, it does not look around for a cluster.
func agentDatastoreFlag() cli.Flag { return datastoreFlagOr(boltDatastore + ":" + boltDefault) }

func datastoreFlagOr(value string) cli.Flag {
	text := "a host's own file if it is there, else the cluster of ~/.kube/config or of the pod"
	if value != "" {
		text = value
	}
	return &cli.StringFlag{Name: "datastore", Value: value, DefaultText: text, Usage: "where the objects are: bolt:PATH, a file; or kubernetes[:`KUBECONFIG`], a cluster, " +
		"by default the one that KUBECONFIG, ~/.kube/config or the pod's service account names [$TIERWALL_DATASTORE]"}
}

// connection is where the objects are, and how to get there.
type connection struct {
	settings   settings
	kind, path string // bolt and its file; kubernetes and its kubeconfig, where that was said
	because    string // who said so
	guessed    bool   // nobody did: it follows from something else
}

// String is what --datastore would say.
func (at connection) String() string {
	if at.path == "" {
		return at.kind
	}
	return at.kind + ":" + at.path
}

// connect finds where the objects are from what flags, environment and file say, and where they say nothing from what there is.
func connect(c *cli.Context) (connection, error) {
	value, guess := c.String("datastore"), true
	if value != "" && !c.IsSet("datastore") {
		guess = false
	}
	s, err := readSettings(c, guess)
	if err != nil {
		return connection{}, err
	}
	at := connection{settings: s}
	if err := at.find(guess); err != nil {
		return at, err
	}
	return at, nil
}

func (at *connection) find(guess bool) error {
	s := at.settings
	where, kind := s["datastore"], s["datastoreType"]
	switch {
	case where.said() && where.rank >= kind.rank:
		return at.parse(where)
	case kind.value == kubeDatastore:
		at.kind, at.because = kubeDatastore, kind.origin
		return nil
	case kind.value == etcdDatastore:
		return noEtcd(kind)
	case kind.said():
		return fmt.Errorf("datastoreType %q (%s) is not %s; for a file there is --datastore bolt:PATH", kind.value, kind.origin, kubeDatastore)
	}
	for _, name := range []string{"etcdEndpoints", "etcdDiscoverySrv"} {
		if s[name].said() {
			return noEtcd(s[name])
		}
	}
	if !guess {
		at.kind, at.path, at.because = boltDatastore, boltDefault, "default"
		return nil
	}
	for _, name := range []string{"kubeconfig", "kubeconfigInline", "k8sAPIEndpoint", "k8sCurrentContext"} {
		if s[name].said() {
			at.kind, at.because, at.guessed = kubeDatastore, s[name].origin, true
			return nil
		}
	}
	at.guess()
	return nil
}

// parse what --datastore says.
func (at *connection) parse(where setting) error {
	at.kind, at.path, _ = strings.Cut(where.value, ":")
	at.because = where.origin
	if at.kind != kubeDatastore && (at.kind != boltDatastore || at.path == "") {
		return usagef("datastore %q (%s) is neither bolt:PATH nor kubernetes[:KUBECONFIG]", where.value, where.origin)
	}
	return nil
}

func noEtcd(who setting) error {
	return fmt.Errorf("%s (%s): Tierwall keeps objects in a cluster's API server or in a file, not in etcd. "+
		"Move them: calicoctl datastore migrate lock; calicoctl datastore migrate export > FILE; then, with --datastore kubernetes or bolt:PATH, "+
		"tierctl datastore migrate import -f FILE", who.value, who.origin)
}

// guess from what there is: a host's own file goes before a kubeconfig that lies about.
func (at *connection) guess() {
	at.kind, at.path, at.guessed = boltDatastore, boltDefault, true
	home, _ := os.UserHomeDir() // none has no kubeconfig
	kubeconfig := filepath.Join(home, ".kube", "config")
	switch {
	case plugin():
		at.kind, at.path, at.because = kubeDatastore, "", "default: kubectl's"
	case exists(boltDefault):
		at.because = "default: the file is there"
	case home != "" && exists(kubeconfig):
		at.kind, at.path, at.because = kubeDatastore, kubeconfig, "default: that is there, and no "+boltDefault
	case os.Getenv("KUBERNETES_SERVICE_HOST") != "":
		at.kind, at.path, at.because = kubeDatastore, "", "default: this is a pod"
	default:
		at.because = "default: nobody has said where the objects are"
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// datastore is the kind and the place of what connect finds; none where that cannot be told, or the command has no datastore.
func datastore(c *cli.Context) (kind, path string) {
	at, err := connect(c)
	if err != nil || !has(flagsOf(nil, []*cli.Command{c.Command}), "datastore") {
		return "", ""
	}
	return at.kind, at.path
}

// ofCluster tells whether objects are a cluster's: those of files are where somebody has said that the datastore is one.
func ofCluster(c *cli.Context) bool {
	at, err := connect(c)
	return err == nil && at.kind == kubeDatastore && (!at.guessed || len(c.StringSlice("filename")) == 0)
}

// openStore names the datastore, for one who writes nothing while it is locked; it opens nothing yet.
func openStore(c *cli.Context) (store.Store, error) {
	at, err := connect(c)
	if err != nil {
		return nil, err
	}
	at.tell(c)
	if at.kind == boltDatastore {
		return store.OpenBolt(at.path).Heeding(true), nil
	}
	config, err := at.cluster()
	if err != nil {
		return nil, err
	}
	k, err := store.OpenKube(config)
	if err != nil {
		return nil, err
	}
	return k.Heeding(true), nil
}

// clusterOf is the cluster that the datastore must be.
func clusterOf(c *cli.Context) (*rest.Config, error) {
	at, err := connect(c)
	if err != nil {
		return nil, err
	}
	if at.kind != kubeDatastore {
		return nil, usagef("%s needs a cluster, and the datastore is %s (%s): --datastore kubernetes[:KUBECONFIG]", called(c), at, at.because)
	}
	at.tell(c)
	return at.cluster()
}

// cluster as kubectl finds one, with what the settings say of it.
func (at connection) cluster() (*rest.Config, error) {
	overrides, err := at.overrides()
	if err != nil {
		return nil, err
	}
	loader, err := at.kubeconfig(overrides)
	if err != nil {
		return nil, err
	}
	config, err := loader.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, errors.New("finding the cluster: there is no kubeconfig, and this is no pod: set KUBECONFIG, or --datastore kubernetes:KUBECONFIG or bolt:PATH")
	}
	if context := at.settings["k8sCurrentContext"]; context.said() && context.origin != at.because {
		at.because += ", " + context.origin
	}
	if err != nil {
		return nil, fmt.Errorf("finding the cluster (%s): %w", at.because, err)
	}
	config.UserAgent = "tierctl/" + version
	if qps := at.settings["k8sClientQPS"]; qps.said() {
		n, err := strconv.ParseFloat(qps.value, 32)
		if err != nil || n <= 0 {
			return nil, fmt.Errorf("k8sClientQPS %q (%s) is no number of requests a second", qps.value, qps.origin)
		}
		config.QPS, config.Burst = float32(n), int(2*n)+1
	}
	return config, nil
}

// overrides are what settings say of a cluster, whatever a kubeconfig says.
func (at connection) overrides() (*clientcmd.ConfigOverrides, error) {
	o := &clientcmd.ConfigOverrides{}
	for name, to := range map[string]*string{
		"k8sCurrentContext": &o.CurrentContext, "k8sAPIEndpoint": &o.ClusterInfo.Server, "k8sCAFile": &o.ClusterInfo.CertificateAuthority,
		"k8sCertFile": &o.AuthInfo.ClientCertificate, "k8sKeyFile": &o.AuthInfo.ClientKey, "k8sAPIToken": &o.AuthInfo.Token,
	} {
		*to = at.settings[name].value
	}
	if insecure := at.settings["k8sInsecureSkipTLSVerify"]; insecure.said() {
		yes, err := strconv.ParseBool(insecure.value)
		if err != nil {
			return nil, fmt.Errorf("k8sInsecureSkipTLSVerify %q (%s) is neither true nor false", insecure.value, insecure.origin)
		}
		o.ClusterInfo.InsecureSkipTLSVerify = yes
	}
	return o, nil
}

// kubeconfig is the one that was said, or kubectl's; none where a setting says where the API server is, for credentials of one cluster are
// nothing to send to another.
func (at connection) kubeconfig(o *clientcmd.ConfigOverrides) (clientcmd.ClientConfig, error) {
	if inline := at.settings["kubeconfigInline"]; inline.said() && at.path == "" {
		config, err := clientcmd.Load([]byte(inline.value))
		if err != nil {
			return nil, fmt.Errorf("kubeconfigInline (%s): %w", inline.origin, err)
		}
		return clientcmd.NewDefaultClientConfig(*config, o), nil
	}
	said := at.path
	if said == "" {
		said = at.settings["kubeconfig"].value
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	switch paths := filepath.SplitList(said); {
	case len(paths) == 1:
		rules.ExplicitPath = paths[0]
	case len(paths) > 1:
		rules.Precedence = paths
	case o.ClusterInfo.Server != "":
		rules = &clientcmd.ClientConfigLoadingRules{}
	}
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, o), nil
}

// tell keeps which datastore was taken without being asked for, for an error to say: see whereTo.
func (at connection) tell(c *cli.Context) {
	if at.guessed {
		c.App.Metadata["datastore"] = fmt.Sprintf("%s (%s); --datastore names another", at, at.because)
	}
}

// whereTo adds which datastore was taken to an error of one who did not find it.
func whereTo(app *cli.App, err error) string {
	where, guessed := app.Metadata["datastore"]
	if !guessed || !errors.Is(err, store.ErrNoStore) && !errors.As(err, new(*url.Error)) && !errors.As(err, new(net.Error)) {
		return ""
	}
	return fmt.Sprintf("; the datastore is %s", where)
}

// existing is the same store for one who must not make a new one where it has gone, and goes on while it is locked.
func existing(s store.Store) store.Store {
	switch s := s.(type) {
	case *store.Bolt:
		return s.Existing().Heeding(false)
	case *store.Kube:
		return s.Heeding(false)
	}
	return s
}

// createStore is openStore for what writes: it says when there was no store yet, for that may be a slip of the pen.
func createStore(c *cli.Context) (store.Store, error) {
	s, err := openStore(c)
	b, ok := s.(*store.Bolt)
	if err != nil || !ok {
		return s, err
	}
	if newStore(b) && dryRunOf(c) == "" {
		fmt.Fprintf(c.App.ErrWriter, "datastore %s is new\n", strings.TrimPrefix(b.String(), "bolt:"))
	}
	return s, nil
}

// newStore tells whether there is no such store yet.
func newStore(b *store.Bolt) bool {
	_, err := os.Stat(strings.TrimPrefix(b.String(), "bolt:"))
	return errors.Is(err, fs.ErrNotExist)
}
