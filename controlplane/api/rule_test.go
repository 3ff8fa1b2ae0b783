package api

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// services gives the services of a file.
func services(file protoreflect.FileDescriptor) (all []protoreflect.ServiceDescriptor) {
	for i := range file.Services().Len() {
		all = append(all, file.Services().Get(i))
	}
	return all
}

// controlServices gives every service of vigil.control.v1.
func controlServices() (all []protoreflect.ServiceDescriptor) {
	protoregistry.GlobalFiles.RangeFilesByPackage("vigil.control.v1", func(file protoreflect.FileDescriptor) bool {
		all = append(all, services(file)...)
		return true
	})
	return all
}

// unruled names the methods that lack a role or an audit class.
func unruled(all []protoreflect.ServiceDescriptor) (wrong []string) {
	for _, service := range all {
		for i := range service.Methods().Len() {
			method := service.Methods().Get(i)
			rule, _ := proto.GetExtension(method.Options(), commonv1.E_Rule).(*commonv1.MethodRule)
			if rule.GetRole() == commonv1.Role_ROLE_UNSPECIFIED || rule.GetAudit() == commonv1.AuditClass_AUDIT_CLASS_UNSPECIFIED {
				wrong = append(wrong, string(method.FullName()))
			}
		}
	}
	return wrong
}

func TestEveryMethodHasARule(t *testing.T) {
	all := controlServices()
	if len(all) < 5 {
		t.Fatalf("found %d services, want at least 5", len(all))
	}
	for _, method := range unruled(all) {
		t.Errorf("%s lacks a role or an audit class: set the option (vigil.common.v1.rule)", method)
	}
}

// The planted violations: a method without the option, and halves of one.
func TestAMethodWithoutARuleIsFound(t *testing.T) {
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("planted.proto"), Package: proto.String("planted"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("M")}},
		Service:     []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("S")}},
	}
	for i, rule := range []*commonv1.MethodRule{
		nil,
		{Role: commonv1.Role_ROLE_VIEWER},
		{Audit: commonv1.AuditClass_AUDIT_CLASS_READ},
		{Role: commonv1.Role_ROLE_VIEWER, Audit: commonv1.AuditClass_AUDIT_CLASS_READ},
	} {
		options := &descriptorpb.MethodOptions{}
		if rule != nil {
			proto.SetExtension(options, commonv1.E_Rule, rule)
		}
		file.Service[0].Method = append(file.Service[0].Method, &descriptorpb.MethodDescriptorProto{
			Name: proto.String(fmt.Sprint("M", i)), Options: options,
			InputType: proto.String(".planted.M"), OutputType: proto.String(".planted.M"),
		})
	}
	planted, err := protodesc.NewFile(file, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"planted.S.M0", "planted.S.M1", "planted.S.M2"}
	if diff := cmp.Diff(want, unruled(services(planted))); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
}

func TestEveryServiceIsServed(t *testing.T) {
	server := grpc.NewServer()
	defer server.Stop()
	(&API{}).register(server)
	var want []string
	for _, service := range controlServices() {
		want = append(want, string(service.FullName()))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(server.GetServiceInfo()))); diff != "" {
		t.Errorf("services (-in proto +served):\n%s", diff)
	}
}

func TestEveryUnaryMethodAnswersJSON(t *testing.T) {
	in := install(t)
	for _, service := range controlServices() {
		for i := range service.Methods().Len() {
			method := service.Methods().Get(i)
			if method.IsStreamingServer() {
				continue
			}
			name := fmt.Sprintf("%s/%s", service.Name(), method.Name())
			// 404 with this body is the gateway's own: no such route.
			if code, body := in.post(t, name, `{}`); body == `{"code":5,"message":"NotFound","details":[]}` || code == 501 {
				t.Errorf("%s: %d %s", name, code, body)
			}
		}
	}
}
