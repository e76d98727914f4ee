package kube

import "text/template"

// containerdConfig is for version 2. Whoever lacks CAP_SYS_RESOURCE, as root in some virtual machines does, may not lower a process's
// oom_score_adj: without restrict_oom_score_adj no pod would start there.
var containerdConfig = parsed(`
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.blockfile", "io.containerd.nri.v1.nri",
]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{{.Pause}}"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{{.Runtime}}"]
  conf_dir = "{{.Dir}}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "{{.Runtime}}/runc"
  SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
`)

var cniConfig = parsed(`{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [{{.Plugin}}, {"type": "portmap", "capabilities": {"portMappings": true}}]
}
`)

// kubeletConfig never evicts a pod, however full the machine is, sets no iptables rule, and lets everybody read logs and run commands.
var kubeletConfig = parsed(`
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: "::"
healthzBindAddress: 127.0.0.1
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: {{.Cgroup}}
failCgroupV1: false
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
clusterDomain: cluster.local
resolvConf: ""
failSwapOn: false
localStorageCapacityIsolation: false
evictionHard: {memory.available: 1Mi, nodefs.available: "1%", nodefs.inodesFree: "1%", imagefs.available: "1%", pid.available: "1%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
syncFrequency: 5s
nodeStatusUpdateFrequency: 5s
kubeAPIQPS: 500
kubeAPIBurst: 1000
`)

// kubeProxyConfig sets nothing that is the whole machine's, as the size of the connection table is.
var kubeProxyConfig = parsed(`
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: {{.Mode}}
hostnameOverride: {{.Name}}
clusterCIDR: {{.PodNets}}
clientConnection: {kubeconfig: "{{.Kubeconfig}}"}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {minSyncPeriod: 100ms, syncPeriod: 30s}
iptables: {minSyncPeriod: 100ms, syncPeriod: 30s}
`)

func parsed(text string) *template.Template { return template.Must(template.New("").Parse(text)) }
