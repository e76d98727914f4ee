package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// The users that the API server knows by a token, which is their name. Each node is one more.
const (
	admin      = "admin"
	proxy      = "system:kube-proxy"
	controller = "system:kube-controller-manager"
	scheduler  = "system:kube-scheduler"
)

var server = "https://" + netip.AddrPortFrom(controlPlane[0], 6443).String()

func (n *Node) user() string { return "system:node:" + n.Name }

// writeSecrets writes everything that somebody proves who he is with.
func (c *Cluster) writeSecrets() error {
	names := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"}
	if err := writeCertificates(c.certs(), names, slices.Concat(apiService, controlPlane)); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	// The controller manager would otherwise make a service account for each of its controllers, one after the other.
	groups := map[string]string{admin: "system:masters", controller: "system:masters", scheduler: "", proxy: ""}
	for _, n := range c.Nodes {
		groups[n.user()] = "system:nodes"
	}
	var tokens []byte
	for user, group := range groups {
		tokens = fmt.Appendf(tokens, "%s,%s,%s,%s\n", user, user, user, group)
		if err := c.writeKubeconfig(user); err != nil {
			return err
		}
	}
	return os.WriteFile(c.file("tokens"), tokens, 0o600)
}

func (c *Cluster) writeKubeconfig(user string) error {
	type object = map[string]any
	text, err := json.Marshal(object{
		"apiVersion": "v1", "kind": "Config", "current-context": "test",
		"clusters": []object{{"name": "test", "cluster": object{"server": server, "certificate-authority": c.cert("ca.crt")}}},
		"users":    []object{{"name": user, "user": object{"token": user}}},
		"contexts": []object{{"name": "test", "context": object{"cluster": "test", "user": user}}},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(c.kubeconfig(user), text, 0o600)
}

func (c *Cluster) certs() string                 { return c.file("certs") }
func (c *Cluster) cert(name string) string       { return filepath.Join(c.certs(), name) }
func (c *Cluster) kubeconfig(user string) string { return c.file(user + ".kubeconfig") }

// config is how this process reaches the API server: with a connection that is made where the control plane is.
func (c *Cluster) config() (*rest.Config, error) {
	ca, err := os.ReadFile(c.cert("ca.crt"))
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host: server, BearerToken: admin, TLSClientConfig: rest.TLSClientConfig{CAData: ca}, QPS: -1,
		Dial:  c.hub.dial,
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
	}, nil
}

// StopControlPlane kills the API server and etcd. Everything else goes on, and finds nobody to ask.
func (c *Cluster) StopControlPlane() error {
	return errors.Join(c.kill("kube-apiserver"), c.kill("etcd"))
}

// ContinueControlPlane starts both again, and the controllers, which would ask again but every half minute; it waits until they do their work.
func (c *Cluster) ContinueControlPlane(ctx context.Context) error {
	if err := errors.Join(c.kill("kube-controller-manager"), c.kill("kube-scheduler"), c.startStore(ctx)); err != nil {
		return err
	}
	if err := c.startControllers(); err != nil {
		return err
	}
	c.outages++
	name := fmt.Sprintf("after-outage-%d", c.outages)
	if _, err := c.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	err := c.await(ctx, "kube-controller-manager", func(ctx context.Context) error {
		_, err := c.client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return errors.Join(err, c.client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}))
}

// startControlPlane starts etcd and everything that needs no node, as soon as what each needs is there.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	if err := c.startStore(ctx); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if err := c.createNode(ctx, n); err != nil {
			return err
		}
	}
	return c.startControllers()
}

// startStore starts etcd and the API server.
func (c *Cluster) startStore(ctx context.Context) error {
	const client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
	err := c.start(c.hub, "etcd", c.component("etcd"), "--data-dir", c.file("etcd"), "--log-level", "warn", "--unsafe-no-fsync",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	if err != nil {
		return err
	}
	if err := c.await(ctx, "etcd", func(ctx context.Context) error { return c.hub.reaches(ctx, "127.0.0.1:2379") }); err != nil {
		return err
	}
	if err := c.startAPIServer(client); err != nil {
		return err
	}
	return c.await(ctx, "kube-apiserver", func(ctx context.Context) error {
		return c.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

func (c *Cluster) startAPIServer(etcd string) error {
	return c.start(c.hub, "kube-apiserver", c.component("kube-apiserver"), "--etcd-servers="+etcd,
		"--bind-address=::", "--advertise-address="+controlPlane[0].String(), "--secure-port=6443",
		"--tls-cert-file="+c.cert("serving.crt"), "--tls-private-key-file="+c.cert("serving.key"), "--cert-dir="+c.certs(),
		"--service-cluster-ip-range="+serviceNets.String(),
		"--service-account-key-file="+c.cert("sa.key"), "--service-account-signing-key-file="+c.cert("sa.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--token-auth-file="+c.file("tokens"), "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP",
		"--enable-aggregator-routing=true", // webhooks are reached by their pods' addresses: kube-proxy is not where we are
	)
}

func (c *Cluster) startControllers() error {
	local := func(user, port string) []string {
		file := c.kubeconfig(user)
		return []string{"--kubeconfig=" + file, "--authentication-kubeconfig=" + file, "--authorization-kubeconfig=" + file,
			"--authentication-skip-lookup=true", "--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=" + port}
	}
	err := c.start(c.hub, "kube-controller-manager", c.component("kube-controller-manager"), append(local(controller, "10257"),
		"--service-account-private-key-file="+c.cert("sa.key"), "--root-ca-file="+c.cert("ca.crt"),
		"--kube-api-qps=500", "--kube-api-burst=1000")...)
	if err != nil {
		return err
	}
	return c.start(c.hub, "kube-scheduler", c.component("kube-scheduler"), append(local(scheduler, "10259"), "--kube-api-qps=500", "--kube-api-burst=1000")...)
}

// createNode makes the Node before its kubelet does, so that its pods have the network that its number says.
func (c *Cluster) createNode(ctx context.Context, n *Node) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name}}
	for _, p := range n.pods {
		node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, p.String())
	}
	node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
	_, err := c.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	return err
}
