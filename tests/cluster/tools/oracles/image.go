package main

import (
	// The algorithms of digests that the kubelet and containerd know; without them none is taken.
	_ "crypto/sha256"
	_ "crypto/sha512"
	"fmt"

	"github.com/distribution/reference"
)

type imageParts struct {
	Domain string `json:"domain"`
	Path   string `json:"path"`
	Tag    string `json:"tag,omitempty"`
	Digest string `json:"digest,omitempty"`
}

// image reads an image reference as the kubelet does.
func image(question []byte) (any, error) {
	text := read[string](question)
	named, err := reference.ParseNormalizedNamed(text)
	// containerd's way; it changes what comes out, not what is taken.
	if _, other := reference.ParseDockerRef(text); (err == nil) != (other == nil) {
		panic(fmt.Sprintf("the kubelet and containerd differ about %q: %v, %v", text, err, other))
	}
	if err != nil {
		return nil, err
	}
	parts := imageParts{Domain: reference.Domain(named), Path: reference.Path(named)}
	if tagged, ok := named.(reference.Tagged); ok {
		parts.Tag = tagged.Tag()
	}
	if digested, ok := named.(reference.Digested); ok {
		parts.Digest = digested.Digest().String()
	}
	return parts, nil
}
