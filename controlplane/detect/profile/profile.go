// Package profile says which settings of the rules hold for which run: those
// of the installation, over them those of the run's project, and over these
// those of the run itself.
package profile

import (
	"errors"
	"fmt"
	"path"
	"sync"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
)

// Config is what users write about detection.
type Config struct {
	// Rules holds for every run; what it leaves out is as by default.
	Rules conf.Raw `yaml:"rules"`
	// Projects are laid over that for the runs of projects, in their order.
	Projects []Part `yaml:"projects"`
	// Runs are laid over that for single runs, in their order.
	Runs []Part `yaml:"runs"`
}

// Part is settings for the projects or runs of a pattern.
type Part struct {
	// Match is a pattern for the name of the project, or the run's id: * stands
	// for any characters but /, ? for one, [a-z] for one of several.
	Match string `yaml:"match"`
	// Rules holds for them; what it leaves out stays as it was.
	Rules conf.Raw `yaml:"rules"`
}

// Check reports patterns that match nothing, or cannot be read.
func (p Part) Check(report func(key, format string, args ...any)) {
	if p.Match == "" {
		report("match", "is empty; name a project or a run, or a pattern such as llm-*")
	} else if _, err := path.Match(p.Match, ""); err != nil {
		report("match", "%q is no pattern: a [ is not closed", p.Match)
	}
}

// Chosen is the settings of one run.
type Chosen struct {
	Settings rules.Settings
	// Sources names the parts of the configuration that hold, in the order in
	// which they were laid over the defaults.
	Sources []string
	set     *detect.Set
}

// Profiles is the settings of every run. It does not change; all methods are
// safe for concurrent use.
type Profiles struct {
	config Config

	mu   sync.Mutex
	made map[string]*Chosen // by their sources: there are few
}

// New checks the configuration. Its error is of kind [fault.Invalid] and names
// every mistake.
func New(config Config) (*Profiles, error) {
	p := &Profiles{config: config, made: map[string]*Chosen{}}
	var problems conf.Problems
	for _, part := range p.all() {
		settings := rules.Defaults()
		if err := part.rules.Decode(&settings); err != nil {
			found, ok := errors.AsType[conf.Problems](err)
			if !ok {
				return nil, err
			}
			problems = append(problems, found...)
		}
	}
	if len(problems) > 0 {
		return nil, fault.Mark(fault.Invalid, problems)
	}
	return p, nil
}

// layer is a part with what it is called.
type layer struct {
	name  string
	rules conf.Raw
	holds func(run, project string) bool
}

func (p *Profiles) all() []layer {
	layers := []layer{{"detection.rules", p.config.Rules, func(string, string) bool { return true }}}
	for i, part := range p.config.Projects {
		layers = append(layers, layer{fmt.Sprintf("detection.projects[%d] (%s)", i, part.Match), part.Rules,
			func(_, project string) bool { return matches(part.Match, project) }})
	}
	for i, part := range p.config.Runs {
		layers = append(layers, layer{fmt.Sprintf("detection.runs[%d] (%s)", i, part.Match), part.Rules,
			func(run, _ string) bool { return matches(part.Match, run) }})
	}
	return layers
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return err == nil && ok && name != ""
}

// For gives the settings of a run; project is empty when it is not known.
func (p *Profiles) For(run, project string) *Chosen {
	var holding []layer
	key := ""
	for _, part := range p.all() {
		if part.rules != (conf.Raw{}) && part.holds(run, project) {
			holding = append(holding, part)
			key += part.name + "\n"
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if made := p.made[key]; made != nil {
		return made
	}
	chosen := &Chosen{Settings: rules.Defaults()}
	for _, part := range holding {
		modes := chosen.Settings.Modes
		chosen.Settings.Modes = nil
		_ = part.rules.Decode(&chosen.Settings) // New has seen that it can be
		chosen.Settings.Modes = modes.Over(chosen.Settings.Modes)
		chosen.Sources = append(chosen.Sources, part.name)
	}
	chosen.set = detect.NewSet(rules.All(chosen.Settings))
	p.made[key] = chosen
	return chosen
}

// Choose gives the rules of a run, for [detect.NewBankOf].
func (p *Profiles) Choose(run, project string) *detect.Set { return p.For(run, project).set }

// Nodes gives the rules for nodes: their settings are those of the installation.
func (p *Profiles) Nodes() []detect.NodeRule { return rules.Nodes(p.For("", "").Settings.Nodes) }
