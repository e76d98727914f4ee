package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// configFiles are read where --config names none: the first that is there.
var configFiles = []string{"/etc/tierwall/tierctl.cfg", "/etc/calico/calicoctl.cfg"}

// configKind is the kind of a configuration file, which is calicoctl's (contract §6.7).
const configKind = "CalicoAPIConfig"

// knob is one thing that can be said about where the objects are and how to get there.
type knob struct {
	name   string // in a file's spec
	env    string // also with CALICO_ before it
	flag   string
	secret bool
}

// knobs are calicoctl's, and datastore.
var knobs = []knob{
	{name: "datastore", flag: "datastore", env: "TIERWALL_DATASTORE"},
	{name: "datastoreType", env: "DATASTORE_TYPE"},
	{name: "kubeconfig", flag: "kubeconfig", env: "KUBECONFIG"},
	{name: "kubeconfigInline", secret: true},
	{name: "k8sCurrentContext", flag: "context", env: "K8S_CURRENT_CONTEXT"},
	{name: "k8sAPIEndpoint", env: "K8S_API_ENDPOINT"},
	{name: "k8sKeyFile", env: "K8S_KEY_FILE"},
	{name: "k8sCertFile", env: "K8S_CERT_FILE"},
	{name: "k8sCAFile", env: "K8S_CA_FILE"},
	{name: "k8sAPIToken", env: "K8S_API_TOKEN", secret: true},
	{name: "k8sInsecureSkipTLSVerify", env: "K8S_INSECURE_SKIP_TLS_VERIFY"},
	{name: "k8sClientQPS", env: "K8S_CLIENT_QPS"},
	// read, so that files of calicoctl's are accepted; they change nothing here
	{name: "k8sDisableNodePoll", env: "K8S_DISABLE_NODE_POLL"},
	{name: "usePodCIDR", env: "USE_POD_CIDR"},
	{name: "calicoAPIGroup", env: "CALICO_API_GROUP"},
	{name: "etcdEndpoints", env: "ETCD_ENDPOINTS"},
	{name: "etcdDiscoverySrv", env: "ETCD_DISCOVERY_SRV"},
	{name: "etcdUsername", env: "ETCD_USERNAME"},
	{name: "etcdPassword", env: "ETCD_PASSWORD", secret: true},
	{name: "etcdKeyFile", env: "ETCD_KEY_FILE"},
	{name: "etcdCertFile", env: "ETCD_CERT_FILE"},
	{name: "etcdCACertFile", env: "ETCD_CA_CERT_FILE"},
	{name: "etcdKey", secret: true},
	{name: "etcdCert"},
	{name: "etcdCACert"},
}

// setting is what a knob says, and who said it there.
type setting struct {
	value  string
	origin string // flag --x, env NAME, file PATH:LINE, or default: why
	rank   rank
}

// rank of who says something: the greater is believed.
type rank int

const (
	byDefault rank = iota
	byFile
	byEnv
	byFlag
)

// said tells whether anybody has said anything.
func (s setting) said() bool { return s.rank > byDefault }

// settings are what was said, by the knob's name.
type settings map[string]setting

// readSettings takes in what the flags, the environment and a file say, each believed before the next. guess tells whether files that nobody
// has named count.
func readSettings(c *cli.Context, guess bool) (settings, error) {
	s := settings{}
	for _, k := range knobs {
		s.fromEnv(k)
		if k.flag != "" && c.IsSet(k.flag) {
			s[k.name] = setting{c.String(k.flag), "flag --" + k.flag, byFlag}
		}
	}
	file, named := c.String("config"), c.IsSet("config")
	if strings.HasPrefix(s["datastore"].value, boltDatastore+":") && !named { // no file has a say in that
		return s, nil
	}
	if !named && guess {
		file = firstThere(configFiles)
	}
	if file == "" {
		return s, nil
	}
	return s, s.fromFile(file)
}

// fromEnv believes the name with CALICO_ before it first, as calicoctl does. An empty variable says nothing.
func (s settings) fromEnv(k knob) {
	if k.env == "" {
		return
	}
	for _, name := range []string{k.env, "CALICO_" + k.env} {
		if v := os.Getenv(name); v != "" {
			s[k.name] = setting{v, "env " + name, byEnv}
		}
	}
}

func firstThere(paths []string) string {
	for _, p := range paths {
		if _, err := os.Stat(p); !errors.Is(err, fs.ErrNotExist) {
			return p
		}
	}
	return ""
}

// fromFile takes in a file of calicoctl's, YAML or JSON. Every error has its place.
func (s settings) fromFile(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) { // an empty file says nothing
		return nil
	} else if err != nil {
		return fmt.Errorf("%s: is neither YAML nor JSON: %w", path, err)
	}
	if d.Decode(&more) == nil {
		return fmt.Errorf("%s:%d: there is a second document: a configuration file has one", path, more.Line)
	}
	f := configFile{path, s}
	return f.take(doc.Content[0])
}

// configFile is read into settings.
type configFile struct {
	path string
	into settings
}

func (f configFile) wrong(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%s:%d:%d: %s", f.path, n.Line, n.Column, fmt.Sprintf(format, args...))
}

func (f configFile) take(root *yaml.Node) error {
	return f.fields(root, "", func(key, value *yaml.Node) error {
		switch key.Value {
		case "apiVersion":
			if value.Value != v3.GroupVersion.String() {
				return f.wrong(value, "apiVersion: is %q, and must be %s", value.Value, v3.GroupVersion)
			}
		case "kind":
			if value.Value != configKind {
				return f.wrong(value, "kind: is %q, and must be %s", value.Value, configKind)
			}
		case "metadata":
		case "spec":
			return f.fields(value, "spec.", f.set)
		default:
			return f.wrong(key, "%s: there is no such field: a configuration file has apiVersion, kind, metadata and spec", key.Value)
		}
		return nil
	})
}

// fields are those of a mapping, each but once. Nothing at all is an empty one.
func (f configFile) fields(n *yaml.Node, before string, do func(key, value *yaml.Node) error) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return f.wrong(n, "%smust be fields, each with its value", before)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if seen[key.Value] {
			return f.wrong(key, "%s%s: is there twice", before, key.Value)
		}
		seen[key.Value] = true
		if err := do(key, n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// set what nobody has said with a higher rank. An empty value says nothing.
func (f configFile) set(key, value *yaml.Node) error {
	var known []string
	for _, k := range knobs {
		known = append(known, k.name)
		if k.name != key.Value {
			continue
		}
		switch {
		case value.Kind != yaml.ScalarNode:
			return f.wrong(value, "spec.%s: must be a single value", k.name)
		case value.Tag != "!!null" && value.Value != "" && !f.into[k.name].said():
			f.into[k.name] = setting{value.Value, fmt.Sprintf("file %s:%d", f.path, value.Line), byFile}
		}
		return nil
	}
	return f.wrong(key, "spec.%s: there is no such setting%s", key.Value, suggest(key.Value, known))
}

func configCommand() *cli.Command {
	return &cli.Command{
		Name: "config", Usage: "say where the datastore is and how it is reached", UsageText: "tierctl config view",
		Subcommands: []*cli.Command{{
			Name: "view", Usage: "print the settings in force", UsageText: "tierctl config view [--origin] [-o yaml|json]",
			Description: "What a flag says is believed before what the environment says, then the configuration file, then the default. Secrets are not printed.",
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "origin", Usage: "say of each setting who said it: a flag, a variable, a file's line, or the default and why"},
				outputFlag("yaml (default), json"), datastoreFlag(),
			},
			Action: viewConfig,
		}},
	}
}

// viewConfig also prints settings that do not do; why they do not is then the error.
func viewConfig(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format, err := output(c, "yaml", "json")
	if err != nil {
		return err
	}
	at, err := connect(c)
	if at.settings == nil {
		return err
	}
	if err == nil {
		at.settings["datastore"] = setting{at.String(), at.because, at.settings["datastore"].rank}
		if at.kind == kubeDatastore {
			_, err = at.cluster()
		}
	}
	return errors.Join(printSettings(c, format, at.settings), err)
}

func printSettings(c *cli.Context, format string, s settings) error {
	spec, origins := &yaml.Node{Kind: yaml.MappingNode}, map[string]any{}
	for _, k := range knobs {
		v, ok := s[k.name]
		if !ok {
			continue
		}
		if k.secret {
			v.value = "(hidden)"
		} else if u, err := url.Parse(v.value); err == nil && u.User != nil {
			v.value = u.Redacted()
		}
		value := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v.value}
		origins[k.name] = v.value
		if c.Bool("origin") {
			value.LineComment = v.origin
			origins[k.name] = map[string]string{"value": v.value, "origin": v.origin}
		}
		spec.Content = append(spec.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: k.name}, value)
	}
	if format == "json" {
		e := json.NewEncoder(c.App.Writer)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(map[string]any{"apiVersion": v3.GroupVersion.String(), "kind": configKind, "spec": origins})
	}
	text, err := yaml.Marshal(struct {
		APIVersion string     `yaml:"apiVersion"`
		Kind       string     `yaml:"kind"`
		Spec       *yaml.Node `yaml:"spec"`
	}{v3.GroupVersion.String(), configKind, spec})
	if err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	_, err = c.App.Writer.Write(text)
	return err
}
