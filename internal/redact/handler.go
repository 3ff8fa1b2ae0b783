package redact

import (
	"context"
	"encoding/json"
	"log/slog"
	"reflect"
	"slices"
	"strings"
)

// Handler takes what must not be kept out of the records that it hands on: out
// of their messages and, whatever their types, out of their attributes.
func (r Redactor) Handler(next slog.Handler) slog.Handler {
	return &handler{next: next, redactor: r, names: secretNames()}
}

type handler struct {
	next     slog.Handler
	redactor Redactor
	names    []string
}

// Enabled tells whether a level is said.
func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle hands a record on.
func (h *handler) Handle(ctx context.Context, record slog.Record) error {
	clean := slog.NewRecord(record.Time, record.Level, h.redactor.Text(record.Message), record.PC)
	record.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(h.attr(a))
		return true
	})
	return h.next.Handle(ctx, clean)
}

// WithAttrs keeps attributes for the records to come.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		clean[i] = h.attr(a)
	}
	return &handler{h.next.WithAttrs(clean), h.redactor, h.names}
}

// WithGroup names the attributes to come.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.next.WithGroup(name), h.redactor, h.names}
}

func (h *handler) attr(a slog.Attr) slog.Attr {
	if h.redactor.keys && h.secret(a.Key) {
		return slog.String(a.Key, markSecret)
	}
	value := a.Value.Resolve()
	switch value.Kind() {
	case slog.KindGroup:
		inner := make([]slog.Attr, 0, len(value.Group()))
		for _, one := range value.Group() {
			inner = append(inner, h.attr(one))
		}
		return slog.Attr{Key: a.Key, Value: slog.GroupValue(inner...)}
	case slog.KindString:
		return slog.String(a.Key, h.redactor.Text(value.String()))
	case slog.KindAny:
		// A value of another type stays what it is for the handler behind, unless
		// there is something to take out of what a handler would write of it.
		for _, said := range written(value) {
			if clean := h.redactor.Text(said); clean != said {
				return slog.String(a.Key, clean)
			}
		}
	}
	return slog.Attr{Key: a.Key, Value: value}
}

// written gives what handlers write of a value: as text, and as JSON, which also
// shows what lies behind pointers.
func written(value slog.Value) []string {
	said := []string{value.String()}
	switch v := reflect.ValueOf(value.Any()); {
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8:
		said = []string{string(v.Bytes())}
	case isError(value.Any()):
		return said
	}
	if text, err := json.Marshal(value.Any()); err == nil {
		said = append(said, string(text))
	}
	return said
}

// isError tells whether handlers write what Error gives, and nothing else.
func isError(v any) bool {
	_, fails := v.(error)
	_, marshals := v.(json.Marshaler)
	return fails && !marshals
}

func (h *handler) secret(name string) bool {
	name = strings.ToLower(strings.ReplaceAll(name, "-", "_"))
	return slices.ContainsFunc(h.names, func(s string) bool { return name == s || strings.HasSuffix(name, "_"+s) })
}
