{{/*
One webhook as `mcp-operator webhooks` prints it.
Takes: root; name, path, resources of the webhook.
*/}}
{{- define "mcp-operator.webhook" -}}
{{- $root := .root -}}
name: {{ .name | quote }}
admissionReviewVersions: [v1]
clientConfig:
  {{- /* Otherwise the operator or cert-manager sets it; what is not here is not theirs to lose in an upgrade. */}}
  {{- with include "mcp-operator.caBundle" $root }}
  caBundle: {{ . }}
  {{- end }}
  service:
    namespace: {{ include "mcp-operator.namespace" $root | quote }}
    name: {{ include "mcp-operator.webhookService" $root | quote }}
    path: {{ .path }}
failurePolicy: {{ $root.Values.webhook.failurePolicy }}
# What is on its way out is not held up, even while no operator answers; but its spec is judged when it changes.
matchConditions:
  - name: not-being-deleted-or-spec-changes
    expression: "!has(object.metadata.deletionTimestamp) || object.?spec != oldObject.?spec"
matchPolicy: Equivalent
{{- with include "mcp-operator.namespaceSelector" $root | fromYaml }}
namespaceSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.webhook.objectSelector }}
objectSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
rules:
  - apiGroups: [mcp.example.com]
    apiVersions: [v1alpha1]
    operations: [CREATE, UPDATE]
    resources: {{ toJson .resources }}
    scope: Namespaced
sideEffects: None
timeoutSeconds: {{ $root.Values.webhook.timeoutSeconds }}
{{- end }}

{{/* The namespaces that the operator has rights in, and the user's own selector. */}}
{{- define "mcp-operator.namespaceSelector" -}}
{{- $selector := deepCopy (.Values.webhook.namespaceSelector | default dict) }}
{{- with .Values.watch.namespaces }}
{{- $watched := dict "key" "kubernetes.io/metadata.name" "operator" "In" "values" . }}
{{- $_ := set $selector "matchExpressions" (append (default list (get $selector "matchExpressions")) $watched) }}
{{- end }}
{{- toYaml $selector }}
{{- end }}

{{/* Metadata of both configurations. */}}
{{- define "mcp-operator.webhookMetadata" -}}
name: {{ include "mcp-operator.webhookConfiguration" . | quote }}
labels:
  {{- include "mcp-operator.labels" . | nindent 2 }}
{{- $annotations := deepCopy (.Values.webhook.annotations | default dict) }}
{{- if eq .Values.certificates.mode "cert-manager" }}
{{- $_ := set $annotations "cert-manager.io/inject-ca-from" (printf "%s/%s" (include "mcp-operator.namespace" .) (include "mcp-operator.webhookService" .)) }}
{{- end }}
{{- with include "mcp-operator.annotations" (list . $annotations) }}
{{ . }}
{{- end }}
{{- end }}
