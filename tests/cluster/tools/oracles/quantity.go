package main

import "k8s.io/apimachinery/pkg/api/resource"

type quantityAnswer struct {
	// Whether each of the two is below zero.
	Negative [2]bool `json:"negative"`
	// Whether each of the two has no fraction by the API server's rule. It makes sense from 0 to a bound.
	Whole [2]*bool `json:"whole"`
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
		if parsed.Sign() >= 0 && parsed.CmpInt64(resource.MaxMilliValue) < 0 {
			whole := parsed.MilliValue()%1000 == 0
			answer.Whole[index] = &whole
		}
	}
	answer.Order = quantities[0].Cmp(quantities[1])
	return answer, nil
}
