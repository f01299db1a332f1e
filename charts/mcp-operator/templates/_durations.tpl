{{/* The milliseconds of a duration that the schema takes, such as 1h30m. */}}
{{- define "mcp-operator.milliseconds" -}}
{{- $units := dict "h" 3600000 "m" 60000 "s" 1000 "ms" 1 }}
{{- $sum := 0.0 }}
{{- range regexFindAll "[0-9.]+(h|ms|m|s)" . -1 }}
{{- $number := regexFind "[0-9.]+" . }}
{{- $sum = addf $sum (mulf (float64 $number) (get $units (trimPrefix $number .))) }}
{{- end }}
{{- printf "%.3f" $sum }}
{{- end }}

{{/* What the operator would refuse when it starts, and the fix. */}}
{{- define "mcp-operator.checkDurations" -}}
{{- $lease := .Values.leaderElection.leaseDuration }}
{{- $milliseconds := include "mcp-operator.milliseconds" $lease | float64 }}
{{- if or (lt $milliseconds 2000.0) (gt $milliseconds 86400000.0) (ne $milliseconds (mulf 1000 (floor (divf $milliseconds 1000)))) }}
{{- fail (printf "leaderElection.leaseDuration: %s: expected whole seconds, from 2s to 24h" $lease) }}
{{- end }}
{{- if eq .Values.certificates.mode "self-signed" }}
{{- include "mcp-operator.checkLives" . }}
{{- end }}
{{- if eq .Values.certificates.mode "cert-manager" }}
{{- with .Values.certificates.certManager }}
{{- if ge (include "mcp-operator.milliseconds" .renewBefore | float64) (include "mcp-operator.milliseconds" .duration | float64) }}
{{- fail (printf "certificates.certManager.renewBefore: %s: not shorter than certificates.certManager.duration, %s; the certificate would be renewed without end" .renewBefore .duration) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Certificates of a CA must be out of use when it ends, and be renewed in time when it is replaced. */}}
{{- define "mcp-operator.checkLives" -}}
{{- $lives := .Values.certificates.selfSigned }}
{{- $life := include "mcp-operator.milliseconds" $lives.life | float64 }}
{{- $caLife := include "mcp-operator.milliseconds" $lives.caLife | float64 }}
{{- if lt $life 3000.0 }}
{{- fail (printf "certificates.selfSigned.life: %s: too short; 3s is the least" $lives.life) }}
{{- end }}
{{- if gt $caLife 315360000000.0 }}
{{- fail (printf "certificates.selfSigned.caLife: %s: too long; 87600h (10 years) is the most" $lives.caLife) }}
{{- end }}
{{- if gt (mulf 3 $life) $caLife }}
{{- fail (printf "certificates.selfSigned.caLife: %s: less than three times certificates.selfSigned.life, %s: a replaced CA would end before its certificates are out of use; make the one longer or the other shorter" $lives.caLife $lives.life) }}
{{- end }}
{{- $settle := "60s" }}
{{- range $index, $argument := .Values.extraArgs }}
{{- if eq $argument "--ca-settle" }}
{{- $settle = index (append $.Values.extraArgs "") (add1 $index) }}
{{- else if hasPrefix "--ca-settle=" $argument }}
{{- $settle = trimPrefix "--ca-settle=" $argument }}
{{- end }}
{{- end }}
{{- if lt $life (mulf 2 (include "mcp-operator.milliseconds" $settle)) }}
{{- fail (printf "certificates.selfSigned.life: %s: shorter than twice the time for which a new CA has to settle, %s; make it longer, or shorten that by extraArgs [--ca-settle, 10s]" $lives.life $settle) }}
{{- end }}
{{- end }}

{{/*
With how many seconds left a certificate should have been renewed long ago: half of what is left when its renewal is
due, which is a third of its life where the operator signs it; at most 7 days, and 30 for the CA.
*/}}
{{- define "mcp-operator.certificateExpiry" -}}
{{- $given := .Values.prometheusRule.certificateExpiry | default dict }}
{{- $serving := 604800.0 }}
{{- $ca := 2592000.0 }}
{{- with .Values.certificates }}
{{- if eq .mode "self-signed" }}
{{- $serving = minf $serving (divf (include "mcp-operator.milliseconds" .selfSigned.life) 6000) }}
{{- $ca = minf $ca (divf (include "mcp-operator.milliseconds" .selfSigned.caLife) 6000) }}
{{- else if eq .mode "cert-manager" }}
{{- $serving = minf $serving (divf (include "mcp-operator.milliseconds" .certManager.renewBefore) 2000) }}
{{- end }}
{{- end -}}
serving: {{ $given.serving | default (ceil $serving) | int64 }}
ca: {{ $given.ca | default (ceil $ca) | int64 }}
{{- end }}
