package elastictest

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
)

// order is what of a search says how many hits there are to be, and in which
// order: by one field that has numbers, ascending.
type order struct {
	Size  *int              `json:"size"`
	Sort  []json.RawMessage `json:"sort"` // {"field": "asc"}, or "_doc", which is none
	After []float64         `json:"search_after"`
}

func (o order) apply(hits []object) []object {
	var by map[string]string
	if len(o.Sort) == 1 && json.Unmarshal(o.Sort[0], &by) == nil {
		for field := range by {
			at := func(hit object) float64 { return number(hit["_source"].(object), strings.Split(field, ".")) }
			slices.SortFunc(hits, func(a, b object) int { return cmp.Compare(at(a), at(b)) })
			if len(o.After) == 1 {
				hits = slices.DeleteFunc(hits, func(hit object) bool { return at(hit) <= o.After[0] })
			}
		}
	}
	most := 10 // as Elasticsearch has it
	if o.Size != nil {
		most = *o.Size
	}
	return hits[:min(len(hits), most)]
}

func number(document object, path []string) float64 {
	switch value := document[path[0]].(type) {
	case object:
		if len(path) > 1 {
			return number(value, path[1:])
		}
	case float64:
		return value
	}
	return 0
}
