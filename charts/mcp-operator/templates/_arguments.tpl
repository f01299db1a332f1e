{{/* Where the certificate's Secret is mounted. */}}
{{- define "mcp-operator.certificateFolder" -}}
/etc/mcp-operator/certificates
{{- end }}

{{/* What the operator is called with, as a list; extraArgs come after it. */}}
{{- define "mcp-operator.arguments" -}}
- run
- --http-address
- {{ include "mcp-operator.address" (list .Values.bindAddress .Values.http.port) | quote }}
{{- if not .Values.webhook.enabled }}
- --no-webhooks
{{- else }}
- --webhook-address
- {{ include "mcp-operator.address" (list .Values.bindAddress .Values.webhook.port) | quote }}
- --webhook-configuration
- {{ include "mcp-operator.webhookConfiguration" . | quote }}
{{- if .Values.metrics.secure }}
- --metrics-address
- {{ include "mcp-operator.address" (list .Values.bindAddress .Values.metrics.port) | quote }}
{{- end }}
{{- if include "mcp-operator.servingSecret" . }}
- --certificate-folder
- {{ include "mcp-operator.certificateFolder" . }}
{{- else }}
- --webhook-host
- {{ include "mcp-operator.webhookHost" . | quote }}
{{- if .Values.metrics.secure }}
- --webhook-host
- {{ include "mcp-operator.metricsHost" . | quote }}
{{- end }}
- --ca-secret
- {{ include "mcp-operator.caSecret" . | quote }}
- --ca-life
- {{ .Values.certificates.selfSigned.caLife }}
- --certificate-life
- {{ .Values.certificates.selfSigned.life }}
{{- end }}
{{- if .Values.trustCreators }}
- --trust-creators
{{- end }}
{{- end }}
{{- if .Values.operator.openshift }}
- --openshift
{{- end }}
{{- if ne .Values.operator.clusterDomain "cluster.local" }}
- --cluster-domain
- {{ .Values.operator.clusterDomain | quote }}
{{- end }}
- --leader-elect
- --lease
- {{ include "mcp-operator.fullname" . | quote }}
- --lease-duration
- {{ .Values.leaderElection.leaseDuration }}
{{- range .Values.watch.namespaces }}
- --watch-namespace
- {{ . | quote }}
{{- end }}
- --drain-seconds
- {{ .Values.drainSeconds | quote }}
- --log-format
- {{ .Values.log.format }}
{{- /* Left out, "info" spares the noise of libraries. */}}
{{- if ne .Values.log.level "info" }}
- --log
- {{ .Values.log.level | quote }}
{{- end }}
{{- end }}

{{/* No flag is given twice, and none that contradicts another: the operator would end at once. */}}
{{- define "mcp-operator.checkArguments" -}}
{{- $own := include "mcp-operator.arguments" . | fromYamlArray }}
{{- $repeatable := list "--watch-namespace" "--webhook-host" }}
{{- $selfSigned := list "--webhook-host" "--ca-secret" "--ca-life" "--certificate-life" "--ca-settle" }}
{{- $others := ternary (list "--certificate-folder") $selfSigned (eq .Values.certificates.mode "self-signed") }}
{{- range .Values.extraArgs }}
{{- $flag := splitList "=" . | first }}
{{- if and (hasPrefix "--" $flag) (has $flag $own) (not (has $flag $repeatable)) }}
{{- fail (printf "extraArgs: %s: the chart sets this flag, and the operator takes it once only; change the value that the chart makes it of (names are made of fullnameOverride)" $flag) }}
{{- end }}
{{- if has $flag $others }}
{{- fail (printf "extraArgs: %s: certificates.mode is %s, and this is for another one; leave it out" $flag $.Values.certificates.mode) }}
{{- end }}
{{- end }}
{{- end }}
