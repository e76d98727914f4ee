package crd_test

import "testing"

func controllers(spec string) string {
	return named("KubeControllersConfiguration", "default", spec)
}

const aTemplate = "spec.controllers.node.hostEndpoint.templates[0]"

func template(all string) string {
	return controllers("{controllers: {node: {hostEndpoint: {templates: [" + all + "]}}}}")
}

// controllersConfigurations is contract §1.11.2.
var controllersConfigurations = []fragment{
	{controllers("{logSeverityScreen: Info, healthChecks: Enabled, etcdV3CompactionPeriod: 10m, prometheusMetricsPort: 9094, debugProfilePort: 0}"), accepted},
	{controllers(`{controllers: {node: {reconcilerPeriod: 5m, leakGracePeriod: 15m, syncLabels: Enabled, hostEndpoint: {autoCreate: Disabled,
  createDefaultHostEndpoint: Enabled, templates: [{generateName: custom-host-endpoint, interfaceCIDRs: [1.2.3.0/24], interfacePattern: "eth0|eth1",
  nodeSelector: has(my-label), labels: {key: value}}]}}, policy: {reconcilerPeriod: 5m}, workloadEndpoint: {reconcilerPeriod: 5m},
  serviceAccount: {reconcilerPeriod: 5m}, namespace: {reconcilerPeriod: 5m}, loadBalancer: {assignIPs: AllServices},
  migration: {policyNameMigrator: Disabled}, policyMigration: {enabled: Disabled}}}`), accepted},
	{"kind: KubeControllersConfiguration\nmetadata: {name: default}", accepted},
	{named("KubeControllersConfiguration", "other", "{}"), "metadata/spec"},
	{controllers("{logSeverityScreen: info}"), "spec.logSeverityScreen"},
	{controllers("{healthChecks: 'yes'}"), "spec.healthChecks"},
	{controllers("{prometheusMetricsPort: 70000}"), "spec.prometheusMetricsPort"},
	{controllers("{controllers: {node: {reconcilerPeriod: 5}}}"), "spec.controllers.node.reconcilerPeriod"},
	{controllers("{controllers: {node: {reconcilerPeriod: '0'}}}"), accepted},
	{controllers("{controllers: {node: {reconcilerPeriod: 5 minutes}}}"), "spec.controllers.node.reconcilerPeriod"},
	{controllers("{controllers: {node: {hostEndpoint: {autoCreate: 'true'}}}}"), "spec.controllers.node.hostEndpoint.autoCreate"},
	{controllers("{controllers: {loadBalancer: {assignIPs: None}}}"), "spec.controllers.loadBalancer.assignIPs"},
	{template("{interfacePattern: eth0}"), aTemplate + ".generateName"},
	{template("{generateName: UPPER, interfacePattern: eth0}"), aTemplate + ".generateName"},
	{template("{generateName: a}"), aTemplate},
	{template("{generateName: a, interfaceCIDRs: []}"), aTemplate},
	{template("{generateName: a, interfaceCIDRs: [10.0.0.1]}"), aTemplate + ".interfaceCIDRs[0]"},
	{template("{generateName: a, interfaceCIDRs: [10.0.0.1/8]}"), accepted},
	{template("{generateName: a, interfacePattern: '('}"), aTemplate + ".interfacePattern"},
	{template("{generateName: a, interfacePattern: eth0, nodeSelector: a = b}"), aTemplate + ".nodeSelector"},
	{template("{generateName: a, interfacePattern: eth0}, {generateName: a, interfacePattern: eth1}"), "spec.controllers.node.hostEndpoint.templates[1]"},
}

func TestKubeControllersConfigurations(t *testing.T) {
	for _, f := range controllersConfigurations {
		_, errs := judge(parse(t, f.text))
		check(t, "KubeControllersConfiguration fields", f, errs)
	}
}
