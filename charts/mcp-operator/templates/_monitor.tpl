{{/*
An endpoint of a ServiceMonitor or PodMonitor. Takes: root, monitor (its values), more (relabelings before the user's).
*/}}
{{- define "mcp-operator.scrape" -}}
{{- $root := .root }}
{{- $secure := $root.Values.metrics.secure -}}
port: {{ ternary "metrics" "http" $secure }}
path: /metrics
{{- if $secure }}
scheme: https
{{- with $root.Values.metrics.authorization }}
authorization:
  {{- toYaml . | nindent 2 }}
{{- else }}
bearerTokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
{{- end }}
tlsConfig:
  {{- include "mcp-operator.scrapeTls" $root | nindent 2 }}
{{- end }}
{{- with .monitor }}
interval: {{ .interval }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- if .honorLabels }}
honorLabels: true
{{- end }}
{{- end }}
{{- with concat (.more | default list) (.monitor.relabelings | default list) }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .monitor.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* By what Prometheus knows the operator: the CA that signs its certificate, and the name in it. */}}
{{- define "mcp-operator.scrapeTls" -}}
{{- if .Values.metrics.tlsConfig }}
{{- toYaml .Values.metrics.tlsConfig }}
{{- else -}}
serverName: {{ include "mcp-operator.metricsHost" . }}
ca:
  secret:
    name: {{ include "mcp-operator.servingSecret" . | default (include "mcp-operator.caSecret" .) }}
    key: ca.crt
{{- end }}
{{- end }}
