{{/* What the operator may do with MCPServers and their children: in all namespaces, or in each that it watches. */}}
{{- define "mcp-operator.serverRules" -}}
- apiGroups: [mcp.example.com]
  resources: [mcpservers]
  verbs: [get, list, watch, patch]
- apiGroups: [mcp.example.com]
  resources: [mcpservers/status]
  verbs: [patch]
# Owner references with blockOwnerDeletion, where the API server runs OwnerReferencesPermissionEnforcement.
- apiGroups: [mcp.example.com]
  resources: [mcpservers/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, update, delete]
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [get, list, watch, create, patch, update, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, update, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{/* What it may do with objects of its own, in its own namespace. All of it by name. */}}
{{- define "mcp-operator.ownRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "mcp-operator.fullname" . }}]
  verbs: [get, list, watch, create, patch, update]
{{- if and .Values.webhook.enabled (eq .Values.certificates.mode "self-signed") }}
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ include "mcp-operator.caSecret" . }}]
  verbs: [get, list, watch, create, patch, update]
{{- end }}
{{- end }}

{{/*
What admission needs of the whole cluster: what is trusted of the webhook configurations, and to set it when the operator
makes it itself; what requesters may do; the Pod Security level of namespaces; who may read metrics over TLS.
*/}}
{{- define "mcp-operator.webhookRules" -}}
{{- if .Values.metrics.secure }}
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
{{- end }}
{{- if or .Values.metrics.secure (not .Values.trustCreators) }}
- apiGroups: [authorization.k8s.io]
  resources: [subjectaccessreviews]
  verbs: [create]
{{- end }}
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations, validatingwebhookconfigurations]
  resourceNames: [{{ include "mcp-operator.webhookConfiguration" . }}]
  verbs: [{{ if eq .Values.certificates.mode "self-signed" }}get, patch, {{ end }}list, watch]
{{- end }}

{{/*
A role and its binding to the operator's account.
Takes: root; scope ("Cluster" or ""), name, namespace, rules.
*/}}
{{- define "mcp-operator.role" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .scope }}Role
metadata:
  {{- include "mcp-operator.roleMetadata" . | nindent 2 }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .scope }}RoleBinding
metadata:
  {{- include "mcp-operator.roleMetadata" . | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .scope }}Role
  name: {{ .name | quote }}
subjects:
  - kind: ServiceAccount
    name: {{ include "mcp-operator.serviceAccountName" .root | quote }}
    namespace: {{ include "mcp-operator.namespace" .root | quote }}
{{- end }}

{{- define "mcp-operator.roleMetadata" -}}
name: {{ .name | quote }}
{{- with .namespace }}
namespace: {{ . | quote }}
{{- end }}
labels:
  {{- include "mcp-operator.labels" .root | nindent 2 }}
{{- with include "mcp-operator.annotations" (list .root (dict)) }}
{{ . }}
{{- end }}
{{- end }}
