{{/* The chart's name. */}}
{{- define "mcp-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* What all objects are named after. Short enough for every suffix. */}}
{{- define "mcp-operator.fullname" -}}
{{- $name := include "mcp-operator.name" . }}
{{- /* A release may have dots in its name, a Service none. */}}
{{- $release := replace "." "-" .Release.Name }}
{{- $full := ternary $release (printf "%s-%s" $release $name) (contains $name $release) }}
{{- default $full .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "mcp-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "mcp-operator.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Labels of every object, as an object: the chart's own win. */}}
{{- define "mcp-operator.labels" -}}
{{- $own := include "mcp-operator.selectorLabels" . | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/version" .Chart.AppVersion }}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") }}
{{- merge $own (.Values.commonLabels | default dict) | toYaml }}
{{- end }}

{{/*
The annotations of an object: those of all, and its own, which win. Nothing when there are none.
Takes a list: root, the object's own.
*/}}
{{- define "mcp-operator.annotations" -}}
{{- $all := merge (deepCopy (index . 1 | default dict)) ((index . 0).Values.commonAnnotations | default dict) }}
{{- with $all -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where all of it is installed. */}}
{{- define "mcp-operator.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace }}
{{- end }}

{{- define "mcp-operator.imagePullSecrets" -}}
{{- $secrets := concat (.Values.imagePullSecrets | default list) ((.Values.global).imagePullSecrets | default list) }}
{{- with uniq $secrets -}}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* How a Service gets its addresses. */}}
{{- define "mcp-operator.ipFamilies" -}}
{{- with .Values.ipFamilyPolicy -}}
ipFamilyPolicy: {{ . }}
{{ end }}
{{- with .Values.ipFamilies -}}
ipFamilies: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "mcp-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "mcp-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "mcp-operator.image" -}}
{{- $repository := .Values.image.repository }}
{{- with (.Values.global).imageRegistry }}
{{- /* What has a dot, a colon, or is localhost, and stands before a slash, is a registry. */}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "") }}
{{- end }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* OpenShift chooses the user and the group out of the namespace's range, and refuses any other. */}}
{{- define "mcp-operator.podSecurityContext" -}}
{{- $context := .Values.podSecurityContext | default dict }}
{{- if .Values.operator.openshift }}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" }}
{{- end }}
{{- with $context }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/* Names of single objects. */}}
{{- define "mcp-operator.webhookService" -}}
{{ include "mcp-operator.fullname" . }}-webhook
{{- end }}
{{- define "mcp-operator.metricsService" -}}
{{ include "mcp-operator.fullname" . }}-metrics
{{- end }}
{{/* The name by which Prometheus calls for metrics over TLS. */}}
{{- define "mcp-operator.metricsHost" -}}
{{ include "mcp-operator.metricsService" . }}.{{ include "mcp-operator.namespace" . }}.svc
{{- end }}
{{- define "mcp-operator.caSecret" -}}
{{ include "mcp-operator.fullname" . }}-webhook-ca
{{- end }}

{{/* The name by which the API server calls the webhooks. */}}
{{- define "mcp-operator.webhookHost" -}}
{{ include "mcp-operator.webhookService" . }}.{{ include "mcp-operator.namespace" . }}.svc
{{- end }}

{{/* The Secret with the certificate that is served; empty when the operator makes its own. */}}
{{- define "mcp-operator.servingSecret" -}}
{{- if not .Values.webhook.enabled }}
{{- else if eq .Values.certificates.mode "cert-manager" }}
{{- include "mcp-operator.fullname" . }}-webhook-tls
{{- else if eq .Values.certificates.mode "existing-secret" }}
{{- .Values.certificates.existingSecret.name }}
{{- end }}
{{- end }}

{{/* An address to listen at: host and port. */}}
{{- define "mcp-operator.address" -}}
{{- $host := index . 0 }}
{{- ternary (printf "[%s]" $host) $host (contains ":" $host) }}:{{ index . 1 }}
{{- end }}

{{/* The name of both webhook configurations. */}}
{{- define "mcp-operator.webhookConfiguration" -}}
{{ include "mcp-operator.fullname" . }}
{{- end }}

{{/* Where `helm test` makes its dry runs. */}}
{{- define "mcp-operator.testNamespace" -}}
{{- .Values.tests.namespace | default (.Values.watch.namespaces | default list | first) | default (include "mcp-operator.namespace" .) }}
{{- end }}

{{/* What the API server is to trust, in base64; empty when others fill it in. */}}
{{- define "mcp-operator.caBundle" -}}
{{- if and (eq .Values.certificates.mode "existing-secret") .Values.certificates.existingSecret.caBundle }}
{{- $given := trim .Values.certificates.existingSecret.caBundle }}
{{- $pem := "-----BEGIN CERTIFICATE-----" }}
{{- $bundle := ternary (b64enc $given) (regexReplaceAll "\\s" $given "") (contains $pem $given) }}
{{- if not (contains $pem (b64dec $bundle)) }}
{{- fail "certificates.existingSecret.caBundle: expected certificates in PEM (-----BEGIN CERTIFICATE-----), or base64 of that" }}
{{- end }}
{{- $bundle }}
{{- end }}
{{- end }}

{{/*
How the pods are replaced. In the pods' own network no restart leaves fewer of them; in the nodes' a new one finds
the ports free only where an old one has gone.
*/}}
{{- define "mcp-operator.rollingUpdate" -}}
{{- $given := .Values.updateStrategy.rollingUpdate | default dict }}
{{- $unavailable := hasKey $given "maxUnavailable" | ternary $given.maxUnavailable (ternary 1 0 .Values.hostNetwork) }}
{{- $surge := hasKey $given "maxSurge" | ternary $given.maxSurge (ternary 0 1 .Values.hostNetwork) }}
{{- if and (regexMatch "^0+%?$" (toString $unavailable)) (regexMatch "^0+%?$" (toString $surge)) }}
{{- fail "updateStrategy.rollingUpdate: maxUnavailable and maxSurge are both 0, so no pod could be replaced; raise one" }}
{{- end -}}
maxUnavailable: {{ $unavailable }}
maxSurge: {{ $surge }}
{{- end }}
