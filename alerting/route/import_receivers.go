package route

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// globalsUsed are the global keys that receivers have their defaults from.
func globalsUsed() []string {
	return []string{
		"slack_api_url", "slack_api_url_file", "slack_app_token", "slack_app_token_file", "pagerduty_url", "smtp_smarthost",
		"smtp_from", "smtp_hello", "smtp_auth_username", "smtp_auth_password", "smtp_auth_password_file", "smtp_require_tls",
		"smtp_force_implicit_tls",
	}
}

// receivers converts the receivers: each of its integrations becomes a receiver
// of Vigil's, of which each has one kind.
func (i *importer) receivers() {
	list, _ := i.from["receivers"].([]any)
	var all []any
	for _, item := range list {
		from, _ := item.(map[string]any)
		name := fmt.Sprint(from["name"])
		i.names[name] = nil
		for _, key := range slices.Sorted(maps.Keys(from)) {
			kind, isKind := strings.CutSuffix(key, "_configs")
			if !isKind {
				if key != "name" {
					i.left("receiver %s.%s: Vigil has no such key", name, key)
				}
				continue
			}
			integrations, _ := from[key].([]any)
			for _, integration := range integrations {
				settings, _ := integration.(map[string]any)
				all = i.receiver(all, name, kind, settings)
			}
		}
		if len(i.names[name]) == 0 {
			i.left("receiver %s: nothing of it is left; its routes go to nobody", name)
		}
	}
	if len(all) > 0 {
		i.to["receivers"] = all
	}
}

// receiver adds one integration.
func (i *importer) receiver(all []any, name, kind string, from map[string]any) []any {
	ours := name
	if n := len(i.names[name]); n > 0 {
		ours = name + "-" + strconv.Itoa(n+1)
	}
	part := part{importer: i, from: from, name: name + "." + kind, used: []string{"send_resolved"}}
	var settings map[string]any
	switch kind {
	case "webhook":
		settings = part.webhook()
	case "slack":
		settings = part.slack()
	case "pagerduty":
		settings = map[string]any{"routing_key": part.secret("routing_key", "")}
		if settings["routing_key"] == "" {
			i.left("receiver %s: it has a service_key; Vigil speaks Events API v2 and wants a routing_key", part.name)
			return all
		}
		part.words(settings, "description", "summary")
	case "email":
		settings = part.email()
	default:
		i.left("receiver %s: Vigil has no receivers of kind %s", name, kind)
		return all
	}
	part.unused()
	resolves := kind != "slack" && kind != "email" // Alertmanager's defaults
	if given, ok := from["send_resolved"].(bool); ok {
		resolves = given
	}
	if !resolves {
		i.quiet = append(i.quiet, ours)
	}
	i.names[name] = append(i.names[name], ours)
	i.taken("receiver %s, kind %s", ours, kind)
	return append(all, map[string]any{"name": ours, kind: settings})
}

// part is one integration while it is converted.
type part struct {
	*importer
	from map[string]any
	name string
	used []string
}

// get gives a setting, or a global one.
func (p *part) get(key, global string) string {
	p.used = append(p.used, key)
	if value, ok := p.from[key]; ok {
		return fmt.Sprint(value)
	}
	globals, _ := p.importer.from["global"].(map[string]any)
	if value, ok := globals[global]; ok && global != "" {
		return fmt.Sprint(value)
	}
	return ""
}

// secret gives a secret: as it is, or where its file lies.
func (p *part) secret(key, global string) string {
	file := p.get(key+"_file", global+"_file")
	if file != "" {
		return "${file:" + file + "}"
	}
	return p.get(key, global)
}

// slack takes an app's token with its channel where there is one, else the
// incoming webhook.
func (p *part) slack() map[string]any {
	settings := map[string]any{}
	if token := p.secret("app_token", "slack_app_token"); token != "" && p.get("api_url", "")+p.get("api_url_file", "") == "" {
		settings["token"], settings["channel"] = token, p.get("channel", "")
		if _, given := p.from["update_message"]; given {
			p.used = append(p.used, "update_message") // Vigil always does
		}
	} else {
		settings["url"] = p.secret("api_url", "slack_api_url")
	}
	p.words(settings, "title", "title")
	p.words(settings, "text", "text")
	return settings
}

func (p *part) webhook() map[string]any {
	settings := map[string]any{"url": p.secret("url", "")}
	if http, ok := p.from["http_config"].(map[string]any); ok {
		p.used = append(p.used, "http_config")
		authorization, _ := http["authorization"].(map[string]any)
		token := cmp.Or(http["bearer_token"], authorization["credentials"])
		if token != nil {
			settings["bearer_token"] = fmt.Sprint(token)
		}
		for _, key := range slices.Sorted(maps.Keys(http)) {
			if key != "bearer_token" && key != "authorization" {
				p.left("receiver %s.http_config.%s: Vigil has no such key", p.name, key)
			}
		}
	}
	return settings
}

func (p *part) email() map[string]any {
	host, port, _ := strings.Cut(p.get("smarthost", "smtp_smarthost"), ":")
	settings := map[string]any{"host": host, "from": p.get("from", "smtp_from")}
	if number, err := strconv.Atoi(port); err == nil {
		settings["port"] = number
	}
	var to []any
	for address := range strings.SplitSeq(p.get("to", ""), ",") {
		to = append(to, strings.TrimSpace(address))
	}
	settings["to"] = to
	for key, value := range map[string]string{
		"username": p.get("auth_username", "smtp_auth_username"), "password": p.secret("auth_password", "smtp_auth_password"),
		"hello": p.get("hello", "smtp_hello"),
	} {
		if value != "" {
			settings[key] = value
		}
	}
	switch implicit := p.get("force_implicit_tls", "smtp_force_implicit_tls"); {
	case implicit == "true" || (port == "465" && implicit == ""):
		settings["tls"] = "tls"
	case p.get("require_tls", "smtp_require_tls") == "false":
		settings["tls"] = "none"
	}
	p.used = append(p.used, "require_tls")
	p.words(settings, "text", "text")
	if headers, ok := p.from["headers"].(map[string]any); ok {
		p.used = append(p.used, "headers")
		for _, name := range slices.Sorted(maps.Keys(headers)) {
			if strings.EqualFold(name, "subject") {
				settings["subject"] = fmt.Sprint(headers[name])
			} else {
				p.left("receiver %s.headers.%s: Vigil sets a mail's headers itself", p.name, name)
			}
		}
	}
	return settings
}

// words takes a text that is a template.
func (p *part) words(settings map[string]any, from, to string) {
	if text := p.get(from, ""); text != "" {
		settings[to] = text
	}
}

// unused tells of the settings that nothing was made of.
func (p *part) unused() {
	for _, key := range slices.Sorted(maps.Keys(p.from)) {
		if !slices.Contains(p.used, key) {
			p.left("receiver %s.%s: not taken; the receiver writes its own messages", p.name, key)
		}
	}
}
