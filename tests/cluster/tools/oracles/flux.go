package main

import (
	"context"
	"encoding/json"

	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type fluxQuestion struct {
	Expressions kustomize.HealthCheckExpressions `json:"expressions"`
	Object      json.RawMessage                  `json:"object"`
}

// flux says what Flux makes of an object by healthCheckExprs.
func flux(question []byte) (any, error) {
	asked := read[fluxQuestion](question)
	var object unstructured.Unstructured
	if err := object.UnmarshalJSON(asked.Object); err != nil {
		return nil, err
	}
	evaluator, err := cel.NewStatusEvaluator(&asked.Expressions)
	if err != nil {
		return nil, err
	}
	result, err := evaluator.Evaluate(context.Background(), &object)
	if err != nil {
		return nil, err
	}
	return result.Status.String(), nil
}
