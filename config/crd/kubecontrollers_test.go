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
	{object, controllers("{logSeverityScreen: Info, healthChecks: Enabled, etcdV3CompactionPeriod: 10m, prometheusMetricsPort: 9094, debugProfilePort: 0}"), accepted},
	{object, controllers(`{controllers: {node: {reconcilerPeriod: 5m, leakGracePeriod: 15m, syncLabels: Enabled, hostEndpoint: {autoCreate: Disabled,
  createDefaultHostEndpoint: Enabled, templates: [{generateName: custom-host-endpoint, interfaceCIDRs: [1.2.3.0/24], interfacePattern: "eth0|eth1",
  nodeSelector: has(my-label), labels: {key: value}}]}}, policy: {reconcilerPeriod: 5m}, workloadEndpoint: {reconcilerPeriod: 5m},
  serviceAccount: {reconcilerPeriod: 5m}, namespace: {reconcilerPeriod: 5m}, loadBalancer: {assignIPs: AllServices},
  migration: {policyNameMigrator: Disabled}, policyMigration: {enabled: Disabled}}}`), accepted},
	{object, "kind: KubeControllersConfiguration\nmetadata: {name: default}", accepted},
	{object, named("KubeControllersConfiguration", "other", "{}"), "metadata/spec"},
	{object, controllers("{logSeverityScreen: info}"), "spec.logSeverityScreen"},
	{object, controllers("{healthChecks: 'yes'}"), "spec.healthChecks"},
	{object, controllers("{prometheusMetricsPort: 70000}"), "spec.prometheusMetricsPort"},
	{object, controllers("{controllers: {node: {reconcilerPeriod: 5}}}"), "spec.controllers.node.reconcilerPeriod"},
	{object, controllers("{controllers: {node: {reconcilerPeriod: '0'}}}"), accepted},
	{object, controllers("{controllers: {node: {reconcilerPeriod: 5 minutes}}}"), "spec.controllers.node.reconcilerPeriod"},
	{object, controllers("{controllers: {node: {hostEndpoint: {autoCreate: 'true'}}}}"), "spec.controllers.node.hostEndpoint.autoCreate"},
	{object, controllers("{controllers: {loadBalancer: {assignIPs: None}}}"), "spec.controllers.loadBalancer.assignIPs"},
	{object, template("{interfacePattern: eth0}"), aTemplate + ".generateName"},
	{object, template("{generateName: UPPER, interfacePattern: eth0}"), aTemplate + ".generateName"},
	{object, template("{generateName: a}"), aTemplate},
	{object, template("{generateName: a, interfaceCIDRs: []}"), aTemplate},
	{object, template("{generateName: a, interfaceCIDRs: [10.0.0.1]}"), aTemplate + ".interfaceCIDRs[0]"},
	{object, template("{generateName: a, interfaceCIDRs: [10.0.0.1/8]}"), accepted},
	{object, template("{generateName: a, interfacePattern: '('}"), aTemplate + ".interfacePattern"},
	{object, template("{generateName: a, interfacePattern: eth0, nodeSelector: a = b}"), aTemplate + ".nodeSelector"},
	{object, template("{generateName: a, interfacePattern: eth0}, {generateName: a, interfacePattern: eth1}"), "spec.controllers.node.hostEndpoint.templates[1]"},
}

func TestKubeControllersConfigurations(t *testing.T) {
	for _, f := range controllersConfigurations {
		_, errs := judge(parse(t, f.text))
		check(t, "KubeControllersConfiguration fields", f, errs)
	}
}
