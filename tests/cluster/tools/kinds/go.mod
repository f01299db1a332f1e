module github.com/mcp-operator/mcp-operator/tests/cluster/tools/kinds

go 1.26.0

// Only files of theirs are used: the kinds that samples have beside an MCPServer, for GitOps tools, and the chart for
// Prometheus.
require (
	github.com/argoproj/argo-cd/v3 v3.4.5
	github.com/envoyproxy/gateway v1.9.1
	github.com/fluxcd/kustomize-controller v1.9.6
	github.com/traefik/traefik/v3 v3.7.13
	sigs.k8s.io/gateway-api v1.6.3
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
