package access

import (
	"context"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// projectOf gives a run's project: that of its settings or, where there is none,
// its name.
func projectOf(run *controlv1.Run) string {
	if project := run.GetSettings()["project"]; project != "" {
		return project
	}
	return run.GetName()
}

// inScope refuses a request that names what is of a project that the caller may
// not see. What there is not is refused as well: who may not see a run need not
// learn whether there is one.
func (g *Guard) inScope(ctx context.Context, rule Rule, i *Identity, in proto.Message) error {
	if len(i.Projects) == 0 || rule.Scope == commonv1.Scope_SCOPE_FREE || in == nil {
		return nil
	}
	objects := objectsOf(in)
	if rule.Scope == commonv1.Scope_SCOPE_NAMED && len(objects) == 0 {
		return fault.WithHint(fault.New(fault.Denied, "%s may see some projects only and must name a run", i.Subject()), "name it")
	}
	return g.deps.Store.View(ctx, func(tx *store.Tx) error {
		for field, id := range objects {
			run, err := runOf(tx, field, id)
			if err == nil && run == "" {
				err = fault.New(fault.NotFound, "it is of no run")
			}
			var project string
			if err == nil {
				project, err = projectOfRun(tx, run)
			}
			if err != nil && !fault.Is(err, fault.NotFound) {
				return err
			}
			if err != nil || !i.Sees(project) {
				return fault.New(fault.Denied, "%s may not see %s %q", i.Subject(), field, id)
			}
		}
		return nil
	})
}

func projectOfRun(tx *store.Tx, id string) (string, error) {
	run, err := tx.Run(id)
	if err != nil {
		return "", err
	}
	return projectOf(run), nil
}

// runOf gives the run of what an id names.
func runOf(tx *store.Tx, field, id string) (string, error) {
	switch field {
	case "run_id":
		return id, nil
	case "incident_id":
		incident, err := tx.Incident(id)
		return incident.GetRunId(), err
	case "finding_id":
		finding, err := tx.Finding(id)
		return finding.GetFinding().GetRunId(), err
	case "checkpoint_id":
		checkpoint, err := tx.Checkpoint(id)
		return checkpoint.GetRunId(), err
	}
	return "", fault.New(fault.NotFound, "%s names nothing of a project", field)
}

// filter takes out of an answer what is of projects that the caller may not see:
// of each list of messages with a run, those whose run is not theirs.
func (c *call) filter(ctx context.Context, out proto.Message) error {
	if c.rule.Scope != commonv1.Scope_SCOPE_FILTERED || len(c.identity.Projects) == 0 || out == nil {
		return nil
	}
	return c.guard.deps.Store.View(ctx, func(tx *store.Tx) error {
		seen := map[string]bool{}
		message := out.ProtoReflect()
		fields := message.Descriptor().Fields()
		for n := range fields.Len() {
			field := fields.Get(n)
			if !field.IsList() || field.Kind() != protoreflect.MessageKind {
				continue
			}
			kept, list := message.NewField(field).List(), message.Get(field).List()
			for k := range list.Len() {
				ok, err := c.sees(tx, list.Get(k).Message(), seen)
				if err != nil {
					return err
				}
				if ok {
					kept.Append(list.Get(k))
				}
			}
			message.Set(field, protoreflect.ValueOfList(kept))
		}
		return nil
	})
}

// sees tells whether the caller may see a message, by its run or that of the
// message inside it.
func (c *call) sees(tx *store.Tx, m protoreflect.Message, seen map[string]bool) (bool, error) {
	run := runField(m)
	if run == "" {
		return false, nil
	}
	if ok, known := seen[run]; known {
		return ok, nil
	}
	project, err := projectOfRun(tx, run)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return false, err
	}
	seen[run] = err == nil && c.identity.Sees(project)
	return seen[run], nil
}

func runField(m protoreflect.Message) string {
	fields := m.Descriptor().Fields()
	if field := fields.ByName("run_id"); field != nil {
		return m.Get(field).String()
	}
	for n := range fields.Len() {
		if field := fields.Get(n); field.Kind() == protoreflect.MessageKind && !field.IsList() && !field.IsMap() && m.Has(field) {
			if run := runField(m.Get(field).Message()); run != "" {
				return run
			}
		}
	}
	return ""
}
