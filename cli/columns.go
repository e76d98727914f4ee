package main

import (
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
)

// column of the table that get prints.
type column struct {
	heading string
	wide    bool // only with -o wide
	value   func(client.Object) string
}

var (
	nameColumn      = column{"NAME", false, client.Object.GetName}
	namespaceColumn = column{"NAMESPACE", false, client.Object.GetNamespace}
)

// kindColumns are what each kind has beside its name; a kind that is not here has nothing.
var kindColumns = map[string][]column{
	"Tier": {
		{"ORDER", false, of(func(o *v3.Tier) string { return orderText(o.Spec.Order) })},
		{"DEFAULT ACTION", true, of(func(o *v3.Tier) string {
			if o.Spec.DefaultAction == nil {
				return "Deny"
			}
			return string(*o.Spec.DefaultAction)
		})},
	},
	"NetworkPolicy":             policyColumns(func(o *v3.NetworkPolicy) *v3.PolicySpec { return &o.Spec.PolicySpec }),
	"GlobalNetworkPolicy":       policyColumns(func(o *v3.GlobalNetworkPolicy) *v3.PolicySpec { return &o.Spec.PolicySpec }),
	"StagedNetworkPolicy":       policyColumns(func(o *v3.StagedNetworkPolicy) *v3.PolicySpec { return &o.Spec.PolicySpec }),
	"StagedGlobalNetworkPolicy": policyColumns(func(o *v3.StagedGlobalNetworkPolicy) *v3.PolicySpec { return &o.Spec.PolicySpec }),
	"StagedKubernetesNetworkPolicy": {
		{"PODSELECTOR", true, of(func(o *v3.StagedKubernetesNetworkPolicy) string { return labelSelectorText(&o.Spec.PodSelector) })},
	},
	"KubernetesNetworkPolicy": {
		{"PODSELECTOR", true, of(func(o *networkingv1.NetworkPolicy) string { return labelSelectorText(&o.Spec.PodSelector) })},
	},
	"GlobalNetworkSet": {{"NETS", true, of(func(o *v3.GlobalNetworkSet) string { return cut(strings.Join(o.Spec.Nets, ","), 80) })}, statusColumn},
	"NetworkSet":       {{"NETS", true, of(func(o *v3.NetworkSet) string { return cut(strings.Join(o.Spec.Nets, ","), 80) })}, statusColumn},
	"HostEndpoint": {
		{"NODE", false, of(func(o *v3.HostEndpoint) string { return o.Spec.Node })},
		{"INTERFACE", true, of(func(o *v3.HostEndpoint) string { return o.Spec.InterfaceName })},
		{"IPS", true, of(func(o *v3.HostEndpoint) string { return strings.Join(o.Spec.ExpectedIPs, ",") })},
		{"PROFILES", true, of(func(o *v3.HostEndpoint) string { return strings.Join(o.Spec.Profiles, ",") })},
		statusColumn,
	},
	"WorkloadEndpoint": {
		{"NODE", false, of(func(o *v3.WorkloadEndpoint) string { return o.Spec.Node })},
		{"NETWORKS", false, of(func(o *v3.WorkloadEndpoint) string { return strings.Join(o.Spec.IPNetworks, ",") })},
		{"INTERFACE", false, of(func(o *v3.WorkloadEndpoint) string { return o.Spec.InterfaceName })},
		{"PROFILES", true, of(func(o *v3.WorkloadEndpoint) string { return strings.Join(o.Spec.Profiles, ",") })},
	},
	"NodeReport": {
		{"ENFORCING", false, of(func(o *v1alpha1.NodeReport) string {
			if c := apimeta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionEnforcing); c != nil {
				return string(c.Status)
			}
			return "Unknown"
		})},
		{"ENDPOINTS", false, of(func(o *v1alpha1.NodeReport) string { return strconv.Itoa(o.Status.Endpoints) })},
		{"POLICIES", false, of(func(o *v1alpha1.NodeReport) string { return strconv.Itoa(o.Status.Policies) })},
		{"AGENT", true, of(func(o *v1alpha1.NodeReport) string { return o.Status.AgentVersion })},
		{"REPORTED", false, of(func(o *v1alpha1.NodeReport) string { return o.Status.ReportedAt.UTC().Format(time.RFC3339) })},
	},
	"Profile": {{"LABELS", true, of(func(o *v3.Profile) string { return mapText(o.Spec.LabelsToApply) })}},
	"Pod": {
		{"NODE", false, of(func(o *corev1.Pod) string { return o.Spec.NodeName })},
		{"IP", false, of(func(o *corev1.Pod) string { return o.Status.PodIP })},
		{"LABELS", true, func(o client.Object) string { return mapText(o.GetLabels()) }},
	},
}

// of makes a column's function for one Go type; another type shows nothing.
func of[T client.Object](f func(T) string) func(client.Object) string {
	return func(o client.Object) string {
		if t, ok := o.(T); ok {
			return f(t)
		}
		return ""
	}
}

func policyColumns[T client.Object](spec func(T) *v3.PolicySpec) []column {
	return []column{
		{"TIER", false, of(func(o T) string { return spec(o).Tier })},
		{"ORDER", true, of(func(o T) string { return orderText(spec(o).Order) })},
		{"SELECTOR", true, of(func(o T) string { return spec(o).Selector })},
		statusColumn,
	}
}

// statusColumn is the first condition that is not as it should be, or that the object is in force, of its generation of now.
var statusColumn = column{"STATUS", true, func(o client.Object) string {
	conditions, _ := v3.ConditionsOf(o)
	if conditions == nil {
		return ""
	}
	text, warned := "Unknown", "" // no agent has said anything since the object was written
	for _, c := range *conditions {
		switch {
		case c.ObservedGeneration != o.GetGeneration():
		case c.Type == v3.ConditionAccepted && c.Status == metav1.ConditionFalse:
			return c.Reason
		case c.Type == v3.ConditionProgrammed:
			text = c.Reason
		case c.Type == v3.ConditionAccepted && text == "Unknown":
			text = c.Reason // of a staged policy, which is not programmed
		case c.Type == v3.ConditionWarning:
			warned = ", Warning"
		}
	}
	return text + warned
}}

// orderText is calicoctl's: no order prints as <nil>.
func orderText(order *float64) string {
	if order == nil {
		return "<nil>"
	}
	return strconv.FormatFloat(*order, 'f', -1, 64)
}

func labelSelectorText(s *metav1.LabelSelector) string {
	if s == nil {
		return ""
	}
	return metav1.FormatLabelSelector(s)
}

func mapText(m map[string]string) string {
	var pairs []string
	for k, v := range m {
		pairs = append(pairs, k+"="+v)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return text[:most-3] + "..."
}
