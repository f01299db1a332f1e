package main

import "time"

// duration reads a duration. The answer is in nanoseconds.
func duration(question []byte) (any, error) {
	found, err := time.ParseDuration(read[string](question))
	return found.Nanoseconds(), err
}
