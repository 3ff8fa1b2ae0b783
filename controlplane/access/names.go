package access

import (
	"context"
	"sync"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/vigil-ml/vigil/controlplane/people"
	"github.com/vigil-ml/vigil/controlplane/store"
)

// People knows who pseudonyms stand for. It is safe for concurrent use.
type People interface {
	// Know keeps who came in.
	Know(ctx context.Context, subject string, p people.Profile) error
	// Name puts names in the place of the pseudonyms in a text.
	Name(ctx context.Context, text string) string
}

// namedFields remembers, of each message, the fields that lead to one in which a
// person may be named. Its zero value is ready, and safe for concurrent use.
type namedFields struct{ known sync.Map } // protoreflect.FullName to []protoreflect.FieldDescriptor

// of gives those of a message.
func (n *namedFields) of(message protoreflect.MessageDescriptor) []protoreflect.FieldDescriptor {
	if found, ok := n.known.Load(message.FullName()); ok {
		return found.([]protoreflect.FieldDescriptor)
	}
	var found []protoreflect.FieldDescriptor
	for i := range message.Fields().Len() {
		if field := message.Fields().Get(i); leadsToName(field, map[protoreflect.FullName]bool{}) {
			found = append(found, field)
		}
	}
	n.known.Store(message.FullName(), found)
	return found
}

func leadsToName(field protoreflect.FieldDescriptor, seen map[protoreflect.FullName]bool) bool {
	if field.Kind() == protoreflect.StringKind {
		return store.Personal(field) && field.Cardinality() != protoreflect.Repeated
	}
	inside := field.Message()
	if inside == nil || field.IsMap() || seen[inside.FullName()] {
		return false
	}
	seen[inside.FullName()] = true
	for i := range inside.Fields().Len() {
		if leadsToName(inside.Fields().Get(i), seen) {
			return true
		}
	}
	return false
}

// name puts names in the place of the pseudonyms of an answer.
func (g *Guard) name(ctx context.Context, m protoreflect.Message) {
	if g.deps.People == nil {
		return
	}
	for _, field := range g.named.of(m.Descriptor()) {
		if !m.Has(field) {
			continue
		}
		switch value := m.Get(field); {
		case field.IsList():
			for k := range value.List().Len() {
				g.name(ctx, value.List().Get(k).Message())
			}
		case field.Kind() == protoreflect.MessageKind:
			g.name(ctx, value.Message())
		default:
			if named := g.deps.People.Name(ctx, value.String()); named != value.String() {
				m.Set(field, protoreflect.ValueOfString(named))
			}
		}
	}
}
