package main

import "k8s.io/apimachinery/pkg/api/resource"

type quantityAnswer struct {
	// Whether each of the two is below zero.
	Negative [2]bool `json:"negative"`
	// Below zero, zero or above, as the first is less than the second, the same or more.
	Order int `json:"order"`
}

// quantity reads and compares two quantities. An error if one of them is none.
func quantity(question []byte) (any, error) {
	var answer quantityAnswer
	var quantities [2]resource.Quantity
	for index, text := range read[[2]string](question) {
		parsed, err := resource.ParseQuantity(text)
		if err != nil {
			return nil, err
		}
		quantities[index], answer.Negative[index] = parsed, parsed.Sign() < 0
	}
	answer.Order = quantities[0].Cmp(quantities[1])
	return answer, nil
}
