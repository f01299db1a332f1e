module github.com/mcp-operator/mcp-operator/tests/cluster/tools/kinds

go 1.26.0

// Only files of theirs are used: the kinds that samples have beside an MCPServer, and the chart for Prometheus.
require (
	github.com/envoyproxy/gateway v1.9.1
	github.com/traefik/traefik/v3 v3.7.13
	sigs.k8s.io/gateway-api v1.6.3
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
