{{/* What no schema can say. */}}
{{- define "mcp-operator.check" -}}
{{- if regexMatch "^[0-9]" (include "mcp-operator.fullname" .) }}
{{- fail (printf "the release's name, %s: Services are named after it, and none may begin with a digit; choose another one, or set fullnameOverride" .Release.Name) }}
{{- end }}
{{- $least := add .Values.drainSeconds 20 }}
{{- if le (int .Values.terminationGracePeriodSeconds) (int $least) }}
{{- fail (printf "terminationGracePeriodSeconds: %v: must be above %d, which is drainSeconds and the 20 s that requests in flight get" .Values.terminationGracePeriodSeconds $least) }}
{{- end }}
{{- if and .Values.webhook.enabled (eq (int .Values.webhook.port) (int .Values.http.port)) }}
{{- fail (printf "http.port: %v: webhook.port is the same; choose another" .Values.http.port) }}
{{- end }}
{{- if .Values.metrics.secure }}
{{- if not .Values.webhook.enabled }}
{{- fail "metrics.secure: needs webhook.enabled, as the certificate is the webhooks'" }}
{{- end }}
{{- if has (int .Values.metrics.port) (list (int .Values.webhook.port) (int .Values.http.port)) }}
{{- fail (printf "metrics.port: %v: webhook.port or http.port is the same; choose another" .Values.metrics.port) }}
{{- end }}
{{- $monitored := or (.Values.metrics.serviceMonitor).enabled (.Values.metrics.podMonitor).enabled }}
{{- if and $monitored (eq .Values.certificates.mode "existing-secret") (not .Values.metrics.tlsConfig) }}
{{- fail "metrics.tlsConfig: required with metrics.secure, a monitor, and certificates.mode existing-secret: only you know what verifies your certificate, and for which name" }}
{{- end }}
{{- if and (.Values.metrics.podMonitor).enabled (not .Values.metrics.authorization) }}
{{- fail "metrics.authorization: required with metrics.secure and metrics.podMonitor.enabled, such as {credentials: {name: SECRET, key: token}}: a PodMonitor cannot send Prometheus' own token" }}
{{- end }}
{{- end }}
{{- if and (.Values.metrics.serviceMonitor).enabled (.Values.metrics.podMonitor).enabled }}
{{- fail "metrics.podMonitor.enabled: metrics.serviceMonitor.enabled is true as well, and everything would be counted twice; choose one" }}
{{- end }}
{{- if and .Values.webhook.enabled (eq .Values.certificates.mode "existing-secret") }}
{{- if not .Values.certificates.existingSecret.name }}
{{- fail "certificates.existingSecret.name: required with certificates.mode existing-secret" }}
{{- end }}
{{- if not (or .Values.certificates.existingSecret.caBundle .Values.webhook.annotations) }}
{{- fail "certificates.existingSecret.caBundle: required with certificates.mode existing-secret, unless an annotation in webhook.annotations lets something else inject it" }}
{{- end }}
{{- end }}
{{- if and (.Values.metrics.serviceMonitor).enabled (not .Values.metrics.enabled) }}
{{- fail "metrics.serviceMonitor.enabled: needs metrics.enabled" }}
{{- end }}
{{- range $name := list "serviceMonitor" "podMonitor" }}
{{- with get $.Values.metrics $name }}
{{- if and .enabled .scrapeTimeout }}
{{- if gt (include "mcp-operator.milliseconds" .scrapeTimeout | float64) (include "mcp-operator.milliseconds" .interval | float64) }}
{{- fail (printf "metrics.%s.scrapeTimeout: %s: longer than metrics.%s.interval, %s" $name .scrapeTimeout $name .interval) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.podDisruptionBudget }}
{{- if and .enabled (hasKey . "minAvailable") (hasKey . "maxUnavailable") }}
{{- fail "podDisruptionBudget: minAvailable and maxUnavailable exclude each other; set one" }}
{{- end }}
{{- end }}
{{- include "mcp-operator.checkBudget" . }}
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

{{/* A minimum that lets no replica go holds up every drain of a node; who wants that says maxUnavailable: 0. */}}
{{- define "mcp-operator.checkBudget" -}}
{{- $budget := .Values.podDisruptionBudget | default dict }}
{{- $replicas := ternary (.Values.autoscaling).minReplicas .Values.replicas (eq true (.Values.autoscaling).enabled) }}
{{- if and $budget.enabled (not (kindIs "invalid" $replicas)) }}
{{- $least := toString (get $budget "minAvailable") }}
{{- $all := or (eq $least "100%") (and (regexMatch "^[0-9]+$" $least) (ge (atoi $least) (int $replicas))) }}
{{- if and (hasKey $budget "minAvailable") (gt (int $replicas) 0) $all }}
{{- fail (printf "podDisruptionBudget.minAvailable: %s: with %d replicas none could be evicted, and no node drained; lower it, set maxUnavailable, or have more replicas" $least (int $replicas)) }}
{{- end }}
{{- end }}
{{- end }}
