{{- define "tierwall.labels" -}}
app.kubernetes.io/name: tierwall
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "tierwall.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* Kinds of projectcalico.org/v3 that a cluster has, by who may write them. */}}
{{- define "tierwall.namespaced" -}}
[networkpolicies, stagednetworkpolicies, stagedkubernetesnetworkpolicies, networksets]
{{- end }}
{{- define "tierwall.global" -}}
[tiers, globalnetworkpolicies, stagedglobalnetworkpolicies, globalnetworksets, hostendpoints]
{{- end }}
{{- define "tierwall.configuration" -}}
[felixconfigurations, kubecontrollersconfigurations]
{{- end }}
{{- define "tierwall.policy" -}}
{{ concat (include "tierwall.namespaced" . | fromYamlArray) (include "tierwall.global" . | fromYamlArray) | toYaml }}
{{- end }}
{{- define "tierwall.calico" -}}
{{ concat (include "tierwall.policy" . | fromYamlArray) (include "tierwall.configuration" . | fromYamlArray) | toYaml }}
{{- end }}

{{- /* Before a deletion is believed, its CRD is asked whether it is being deleted itself. */}}
{{- define "tierwall.askCRDs" -}}
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [get]
  resourceNames:
  {{- range include "tierwall.calico" . | fromYamlArray }}
  - {{ . }}.projectcalico.org
  {{- end }}
  - nodereports.tierwall.io
  - clusternetworkpolicies.policy.networking.k8s.io
{{- end }}

{{- /* What the agents' nodes have in common, as a label selector. */}}
{{- define "tierwall.agents" -}}
{{- range $key, $value := .Values.agent.nodeSelector }}{{ $key }}={{ $value }},{{ end }}type!=virtual-kubelet
{{- end }}

{{- /* Whether the API server has MutatingAdmissionPolicies; where it has not, the webhook does what they would. */}}
{{- define "tierwall.mutatingPolicies" -}}
{{- if and (semverCompare ">=1.36-0" .Capabilities.KubeVersion.Version) (.Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy") }}yes{{ end -}}
{{- end }}

{{- /* What both kinds of webhooks say. */}}
{{- define "tierwall.webhook" -}}
clientConfig: # its caBundle the controller keeps
  service: {namespace: {{ .top.Release.Namespace }}, name: tierwall-webhook, port: 443, path: {{ .path }}}
# Safe: agents judge and default what they read themselves, and what they cannot understand fails closed.
failurePolicy: Ignore
timeoutSeconds: {{ .top.Values.admission.timeoutSeconds }}
sideEffects: None
admissionReviewVersions: [v1]
{{- end }}
