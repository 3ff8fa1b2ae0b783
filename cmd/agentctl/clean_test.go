package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestClean(t *testing.T) {
	got := &controlv1.GetRunResponse{
		Run: &controlv1.Run{
			Name: "a\x1b[31mred\nb", Step: 7, Nodes: []string{"n\t1", "n2"},
			Settings: map[string]string{"k\r": "v\x07", "seed": "1"},
		},
		Incidents: []*controlv1.Incident{{Summary: "x\u009by"}},
	}
	clean(got)
	want := &controlv1.GetRunResponse{
		Run: &controlv1.Run{
			Name: "a [31mred b", Step: 7, Nodes: []string{"n 1", "n2"},
			Settings: map[string]string{"k ": "v ", "seed": "1"},
		},
		Incidents: []*controlv1.Incident{{Summary: "x y"}},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
