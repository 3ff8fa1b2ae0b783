package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// objectMost bounds an id in a record: what is longer is none.
const objectMost = 128

func requestID() string { return strings.ToLower(rand.Text()[:20]) }

// RoleName gives a role as people write it.
func RoleName(role commonv1.Role) string {
	return strings.ToLower(strings.TrimPrefix(role.String(), "ROLE_"))
}

// RoleOf is the reverse of RoleName; false for what nobody can be given.
func RoleOf(name string) (commonv1.Role, bool) {
	role := commonv1.Role(commonv1.Role_value["ROLE_"+strings.ToUpper(name)])
	return role, slices.Contains(GivenRoles(), role)
}

// objectsOf gives the ids that a request names, by field. Other texts are left
// out: people may have written them.
func objectsOf(in proto.Message) map[string]string {
	found := map[string]string{}
	message := in.ProtoReflect()
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		name := string(field.Name())
		if field.Kind() != protoreflect.StringKind || field.IsList() || field.IsMap() {
			continue
		}
		if !strings.HasSuffix(name, "_id") && !slices.Contains([]string{"node", "receiver"}, name) {
			continue
		}
		if value := message.Get(field).String(); value != "" && len(value) <= objectMost {
			found[name] = value
		}
	}
	if len(found) == 0 {
		return nil
	}
	return found
}

// digestOf gives the SHA-256 of a request, so that it can be proved what was
// asked without keeping it.
func digestOf(in proto.Message) string {
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(in)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// speakFor makes the request's author whoever calls. The local administrator may
// say on whose behalf: it is one account for all who have this machine.
func speakFor(in proto.Message, i *Identity) {
	if in == nil {
		return
	}
	message := in.ProtoReflect()
	field := message.Descriptor().Fields().ByName("author")
	if field == nil || field.Kind() != protoreflect.StringKind {
		return
	}
	message.Set(field, protoreflect.ValueOfString(i.Author(message.Get(field).String())))
}
