package elastictest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

// bulk creates documents, each by itself.
func (s *Server) bulk(r *http.Request, body []byte) (int, any) {
	kind := r.Header.Get("Content-Type")
	if !strings.Contains(kind, "json") {
		return http.StatusNotAcceptable, object{"error": "Content-Type header [" + kind + "] is not supported", "status": 406}
	}
	if len(body) == 0 {
		return mistake("parse_exception", "request body is required")
	}
	if body[len(body)-1] != '\n' {
		return mistake("illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]")
	}
	lines := bytes.Split(body[:len(body)-1], []byte("\n"))
	var items []any
	failed := false
	for i := 0; i < len(lines); i += 2 {
		var action map[string]struct {
			Index string `json:"_index"`
			ID    string `json:"_id"`
		}
		if err := json.Unmarshal(lines[i], &action); err != nil || len(action) != 1 {
			return mistake("illegal_argument_exception", "Malformed action/metadata line [%d]", i+1)
		}
		if i+1 == len(lines) {
			return mistake("illegal_argument_exception", "the last action has no document")
		}
		for verb, at := range action {
			status, why := s.create(verb, at.Index, at.ID, lines[i+1])
			item := object{"_id": at.ID, "_index": at.Index, "status": status}
			if why != nil {
				item["error"], failed = why, true
			}
			items = append(items, object{verb: item})
		}
	}
	return http.StatusOK, object{"took": 1, "errors": failed, "items": items}
}

// create makes one document; why is what is wrong with it.
func (s *Server) create(verb, index, id string, source []byte) (status int, why object) {
	wrong := func(status int, kind, reason string) (int, object) {
		return status, object{"type": kind, "reason": reason}
	}
	if len(id) > 512 {
		return wrong(400, "illegal_argument_exception", "id ["+id[:20]+"...] is too long, must be no longer than 512 bytes but was: "+strconv.Itoa(len(id)))
	}
	d := s.stream(index)
	if d == nil {
		return wrong(404, "index_not_found_exception", "no such index ["+index+"]")
	}
	if verb != "create" {
		return wrong(400, "illegal_argument_exception", "only write ops with an op_type of create are allowed in data streams")
	}
	if d.blocked {
		return wrong(403, "cluster_block_exception", "index ["+index+"] blocked by: [FORBIDDEN/8/index write (api)];")
	}
	var document object
	if err := json.Unmarshal(source, &document); err != nil {
		return wrong(400, "document_parsing_exception", err.Error())
	}
	if _, ok := document["@timestamp"]; !ok {
		return wrong(400, "illegal_argument_exception", "data stream timestamp field [@timestamp] is missing")
	}
	if field := misfit(d.mapping, document, ""); field != "" {
		return wrong(400, "document_parsing_exception", "failed to parse field ["+field+"]")
	}
	newest := d.indices[len(d.indices)-1]
	if _, ok := newest[id]; ok {
		return wrong(409, "version_conflict_engine_exception", "["+id+"]: version conflict, document already exists (current version [1])")
	}
	newest[id] = document
	return http.StatusCreated, nil
}

// misfit names the first field whose value its mapping does not take.
func misfit(mapping, document object, prefix string) string {
	properties, _ := mapping["properties"].(map[string]any)
	for name, value := range document {
		of, ok := properties[name].(map[string]any)
		if !ok {
			continue
		}
		kind, _ := of["type"].(string)
		if kind == "" {
			inner, ok := value.(map[string]any)
			if !ok {
				return prefix + name
			}
			if field := misfit(of, inner, prefix+name+"."); field != "" {
				return field
			}
			continue
		}
		if !fits(kind, value) {
			return prefix + name
		}
	}
	return ""
}

func fits(kind string, value any) bool {
	switch kind {
	case "date", "date_nanos":
		return parseTime(value)
	case "long", "double":
		switch v := value.(type) {
		case float64:
			return true
		case string: // is coerced
			_, err := strconv.ParseFloat(v, 64)
			return err == nil && v != "NaN"
		}
		return false
	case "flattened":
		_, ok := value.(map[string]any)
		return ok
	default:
		_, nested := value.(map[string]any)
		return !nested
	}
}
