package main

import (
	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type kstatusAnswer struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

// kstatus says what a tool that waits for objects (Flux, Helm) makes of one.
func kstatus(question []byte) (any, error) {
	var object unstructured.Unstructured
	if err := object.UnmarshalJSON(question); err != nil {
		return nil, err
	}
	result, err := status.Compute(&object)
	if err != nil {
		return nil, err
	}
	return kstatusAnswer{Status: result.Status.String(), Message: result.Message}, nil
}
