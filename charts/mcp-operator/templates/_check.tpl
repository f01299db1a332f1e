{{/* What no schema can say. */}}
{{- define "mcp-operator.check" -}}
{{- $least := add .Values.drainSeconds 20 }}
{{- if le (int .Values.terminationGracePeriodSeconds) (int $least) }}
{{- fail (printf "terminationGracePeriodSeconds: %v: must be above %d, which is drainSeconds and the 20 s that requests in flight get" .Values.terminationGracePeriodSeconds $least) }}
{{- end }}
{{- if eq (int .Values.webhook.port) (int .Values.http.port) }}
{{- fail (printf "http.port: %v: webhook.port is the same; choose another" .Values.http.port) }}
{{- end }}
{{- if eq .Values.certificates.mode "existing-secret" }}
{{- if not .Values.certificates.existingSecret.name }}
{{- fail "certificates.existingSecret.name: required with certificates.mode existing-secret" }}
{{- end }}
{{- if not (or .Values.certificates.existingSecret.caBundle .Values.webhook.annotations) }}
{{- fail "certificates.existingSecret.caBundle: required with certificates.mode existing-secret, unless an annotation in webhook.annotations lets something else inject it" }}
{{- end }}
{{- end }}
{{- with .Values.metrics.serviceMonitor }}
{{- if .enabled }}
{{- if not $.Values.metrics.enabled }}
{{- fail "metrics.serviceMonitor.enabled: needs metrics.enabled" }}
{{- end }}
{{- if .scrapeTimeout }}
{{- if gt (include "mcp-operator.milliseconds" .scrapeTimeout | float64) (include "mcp-operator.milliseconds" .interval | float64) }}
{{- fail (printf "metrics.serviceMonitor.scrapeTimeout: %s: longer than metrics.serviceMonitor.interval, %s" .scrapeTimeout .interval) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.podDisruptionBudget }}
{{- if and .enabled (hasKey . "minAvailable") (hasKey . "maxUnavailable") }}
{{- fail "podDisruptionBudget: minAvailable and maxUnavailable exclude each other; set one" }}
{{- end }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
{{- fail (printf "autoscaling.minReplicas: %v: above autoscaling.maxReplicas, %v; lower the one or raise the other" .minReplicas .maxReplicas) }}
{{- end }}
{{- if and .enabled (not (or .targetCPUUtilizationPercentage .targetMemoryUtilizationPercentage)) }}
{{- fail "autoscaling: no target; set targetCPUUtilizationPercentage or targetMemoryUtilizationPercentage" }}
{{- end }}
{{- end }}
{{- include "mcp-operator.checkArguments" . }}
{{- include "mcp-operator.checkDurations" . }}
{{- end }}
