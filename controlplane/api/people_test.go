package api

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/serve"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// as gives a connection of somebody.
func (in *installation) as(t *testing.T, secret string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+in.address, grpc.WithTransportCredentials(insecure.NewCredentials()), serve.Bearer(secret, true))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestAPersonsData follows a person who signs in and judges a finding: records have
// the pseudonym, whoever reads sees the name, the auditor sees more where he asks
// for it, all that is kept can be handed out, and after an erasure nothing of it can
// be read.
func TestAPersonsData(t *testing.T) {
	const subject = "user/u-abcdefghijklmnop"
	in := install(t)
	in.update(t, func(tx *store.Tx) error {
		_, err := tx.PutFinding(&controlv1.Finding{FindingId: "f-1", RunId: "r", Created: timestamppb.Now()})
		return errors.Join(err, tx.PutIncident(store.IncidentRecord{Incident: &controlv1.Incident{
			IncidentId: "inc-1", State: controlv1.IncidentState_INCIDENT_STATE_FIRING, Opened: timestamppb.Now(), AcknowledgedBy: subject,
		}}), tx.AddTimeline("inc-1", &controlv1.TimelineEntry{Text: subject + " took it.", Author: subject}))
	})
	ada := in.as(t, in.provider.Token("vigil", map[string]any{"groups": []string{"ops"}}))
	_, auditorToken := in.token(t, time.Hour, nil, commonv1.Role_ROLE_AUDITOR)
	_, adminToken := in.token(t, time.Hour, nil, commonv1.Role_ROLE_ADMIN)
	auditor, admin := in.as(t, auditorToken), in.as(t, adminToken)
	ctx := t.Context()
	_, err := controlv1.NewFindingServiceClient(ada).JudgeFinding(ctx, &controlv1.JudgeFindingRequest{
		FindingId: "f-1", Verdict: controlv1.Verdict_VERDICT_FALSE_ALARM, Author: "somebody else",
	})
	if err != nil {
		t.Fatal(err)
	}
	read := func() string {
		t.Helper()
		out, err := controlv1.NewIncidentServiceClient(admin).GetIncident(ctx, &controlv1.GetIncidentRequest{IncidentId: "inc-1"})
		if err != nil || len(out.Incident.Timeline) != 1 {
			t.Fatalf("incident %v, %v", out, err)
		}
		found, err := controlv1.NewFindingServiceClient(admin).ListFindings(ctx, &controlv1.ListFindingsRequest{})
		if err != nil || len(found.Findings) != 1 {
			t.Fatalf("findings %v, %v", found, err)
		}
		entry := out.Incident.Timeline[0]
		return strings.Join([]string{out.Incident.AcknowledgedBy, entry.Author, entry.Text, found.Findings[0].GetFeedback().GetAuthor()}, "; ")
	}
	if got, want := read(), "Ada Lovelace; Ada Lovelace; Ada Lovelace took it.; Ada Lovelace"; got != want {
		t.Errorf("read: %q, want %q", got, want)
	}
	err = in.store.View(ctx, func(tx *store.Tx) error {
		f, err := tx.Finding("f-1")
		if f.GetFeedback().GetAuthor() != subject {
			t.Errorf("kept: %v", f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	search := func(personal bool) *controlv1.AuditRecord {
		t.Helper()
		out, err := controlv1.NewAuditServiceClient(auditor).SearchRecords(ctx, &controlv1.SearchRecordsRequest{Actor: subject, Action: "JudgeFinding", Personal: personal})
		if err != nil || len(out.Records) != 1 {
			t.Fatalf("records %v, %v", out, err)
		}
		return out.Records[0]
	}
	if r := search(false); len(r.Personal) != 0 {
		t.Errorf("not asked for: %v", r.Personal)
	}
	if r := search(true); r.Personal["name"] != "Ada Lovelace" || r.Personal["address"] != "127.0.0.1" {
		t.Errorf("asked for: %v", r.Personal)
	}
	for _, person := range []string{"u-abcdefghijklmnop", subject, "Ada@Example.org"} {
		out, err := controlv1.NewPeopleServiceClient(auditor).LookupPerson(ctx, &controlv1.LookupPersonRequest{Person: person})
		if err != nil || len(out.People) != 1 || out.People[0].Name != "Ada Lovelace" || out.People[0].Subject != subject {
			t.Errorf("looked up %s: %v, %v", person, out, err)
		}
	}
	if n := in.exported(t, auditor, subject); n < 2 {
		t.Errorf("handed out %d records, want the sign-in and the feedback", n)
	}

	people := controlv1.NewPeopleServiceClient(admin)
	for _, dry := range []bool{true, false} {
		gone, err := people.ErasePerson(ctx, &controlv1.ErasePersonRequest{Person: subject, DryRun: dry})
		if err != nil || gone.Records < 2 || len(gone.Subjects) != 1 {
			t.Fatalf("erase, dry %v: %v, %v", dry, gone, err)
		}
		if r := search(true); r.Erased == dry || (dry && r.Personal["name"] == "") {
			t.Errorf("after erase, dry %v: %v", dry, r)
		}
	}
	if got := read(); strings.Contains(got, "Lovelace") || !strings.Contains(got, subject) {
		t.Errorf("read after the erasure: %q", got)
	}
	if _, err := controlv1.NewPeopleServiceClient(auditor).ErasePerson(ctx, &controlv1.ErasePersonRequest{Person: subject}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("an auditor erases: %v", err)
	}
	for _, want := range []string{"PeopleService/LookupPerson", "PeopleService/ErasePerson", "PeopleService/ExportPerson"} {
		found, err := controlv1.NewAuditServiceClient(auditor).SearchRecords(ctx, &controlv1.SearchRecordsRequest{Action: want})
		if err != nil || len(found.Records) == 0 {
			t.Errorf("%s is not in the audit log: %v", want, err)
		}
	}
}

// exported hands out what is kept of somebody and gives how many records.
func (in *installation) exported(t *testing.T, conn *grpc.ClientConn, person string) (records int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := controlv1.NewPeopleServiceClient(conn).ExportPerson(ctx, &controlv1.ExportPersonRequest{Person: person})
	for err == nil {
		var part *controlv1.ExportPersonResponse
		if part, err = stream.Recv(); err == nil {
			records += len(part.Records)
		}
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return records
}

// TestKeysOfTheRecordsAreRotated by an admin, who sees how far it is.
func TestKeysOfTheRecordsAreRotated(t *testing.T) {
	in := install(t)
	service := controlv1.NewKeyServiceClient(in.conn)
	before, err := service.GetRecordKeys(t.Context(), &controlv1.GetRecordKeysRequest{})
	if err != nil || before.Keys.Keys != 1 {
		t.Fatalf("keys %v, %v", before, err)
	}
	after, err := service.RotateRecordKeys(t.Context(), &controlv1.RotateRecordKeysRequest{NewDataKey: true})
	if err != nil || after.Keys.Keys != 2 || after.Keys.PrimaryKeyId == before.Keys.PrimaryKeyId || after.Keys.Total == 0 {
		t.Errorf("keys %v, %v", after, err)
	}
}
