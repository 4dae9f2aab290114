package appliance

import (
	"fmt"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// resources is the static table of the configuration.
type resources map[access][]chain.Token

// access is what the table is looked up by.
type access struct{ resourceType, id, action string }

var _ delegation.Resources = resources(nil)

func newResources(table []Resource) (resources, error) {
	out := make(resources, len(table))
	for i, r := range table {
		scope, err := chain.ParseScope(r.Scope)
		if err != nil {
			return nil, fmt.Errorf("resources[%d].scope: %w", i, err)
		}
		key := access{r.Type, r.ID, r.Action}
		if _, ok := out[key]; ok {
			return nil, fmt.Errorf("resources[%d]: listed twice", i)
		}
		out[key] = scope
	}
	return out, nil
}

// Required gives the scope of a listed resource; nothing else may be decided about.
func (r resources) Required(resourceType, resourceID, action string) ([]chain.Token, bool) {
	t, ok := r[access{resourceType, resourceID, action}]
	return t, ok
}
