package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tierwall/tierwall/controllers/store"
)

const (
	boltDatastore     = "bolt"
	kubeDatastore     = "kubernetes"
	defaultDatastore  = boltDatastore + ":/var/lib/tierwall/tierwall.db"
	datastoreTypeName = "DATASTORE_TYPE" // calicoctl's (contract §6.7)
)

// datastoreFlag is of every command that reads or writes objects.
func datastoreFlag() cli.Flag {
	return &cli.StringFlag{Name: "datastore", Usage: "where the objects are: bolt:PATH, a file; or kubernetes[:`KUBECONFIG`], a cluster, by default the one that " +
		"KUBECONFIG, ~/.kube/config or the pod's service account names", Value: defaultDatastore, EnvVars: []string{"TIERWALL_DATASTORE"}}
}

// datastore is the kind and the place that the flag says.
func datastore(c *cli.Context) (kind, path string) {
	text := c.String("datastore")
	if !c.IsSet("datastore") && os.Getenv(datastoreTypeName) == kubeDatastore {
		text = kubeDatastore
	}
	kind, path, _ = strings.Cut(text, ":")
	return kind, path
}

// openStore names the datastore that the flag says; it opens nothing yet.
func openStore(c *cli.Context) (store.Store, error) {
	kind, path := datastore(c)
	switch {
	case kind == boltDatastore && path != "":
		return store.OpenBolt(path), nil
	case kind == kubeDatastore:
		config, err := kubeConfig(path)
		if err != nil {
			return nil, err
		}
		return store.OpenKube(config)
	}
	return nil, usagef("datastore %q is neither bolt:PATH nor kubernetes[:KUBECONFIG]", c.String("datastore"))
}

// clusterOf is the cluster that the datastore must be.
func clusterOf(c *cli.Context) (*rest.Config, error) {
	kind, path := datastore(c)
	if kind != kubeDatastore {
		return nil, usagef("%s needs a cluster: --datastore kubernetes[:KUBECONFIG]", c.Command.Name)
	}
	return kubeConfig(path)
}

// kubeConfig finds a cluster as kubectl does.
func kubeConfig(path string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = path
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the cluster: %w", err)
	}
	config.UserAgent = "tierctl/" + version
	return config, nil
}

// existing is the same store for one who must not make a new one where it has gone.
func existing(s store.Store) store.Store {
	if b, ok := s.(*store.Bolt); ok {
		return b.Existing()
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
	path := strings.TrimPrefix(b.String(), "bolt:")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && dryRunOf(c) == "" {
		fmt.Fprintf(c.App.ErrWriter, "datastore %s is new\n", path)
	}
	return s, nil
}
