package envelope

import (
	"fmt"
	"regexp"
)

// Source says where a KEK is. At most one of KeyFile, KeyEnv and Command is
// given; none: there is no key.
type Source struct {
	// KeyFile has 32 bytes in base64, readable by this program's user alone.
	KeyFile string `yaml:"key_file"`
	// KeyEnv names an environment variable that has them.
	KeyEnv string `yaml:"key_env"`
	// Command is a program with its arguments that encrypts and decrypts with a
	// key of a key management service.
	Command []string `yaml:"command"`
	// KeyID names the key of Command: up to 64 letters, digits and "._:/-". It is
	// written beside what the key encrypted.
	KeyID string `yaml:"key_id"`
}

var keyIDForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}$`)

// Check reports settings that contradict each other.
func (s Source) Check(report func(key, format string, args ...any)) {
	given := ""
	for _, one := range []struct {
		key string
		set bool
	}{{"key_file", s.KeyFile != ""}, {"key_env", s.KeyEnv != ""}, {"command", len(s.Command) > 0}} {
		switch {
		case one.set && given != "":
			report(one.key, "is set beside %s; give one of them", given)
		case one.set:
			given = one.key
		}
	}
	switch {
	case given == "command" && !keyIDForm.MatchString(s.KeyID):
		report("key_id", "is %.70q; a command needs a name for its key: up to 64 letters, digits and ._:/-", s.KeyID)
	case given != "command" && s.KeyID != "":
		report("key_id", "is set without a command; other keys name themselves")
	}
	if given == "command" && s.Command[0] == "" {
		report("command", "names no program")
	}
}

// On tells whether there is a key.
func (s Source) On() bool { return s.KeyFile != "" || s.KeyEnv != "" || len(s.Command) > 0 }

// KEK gives the key. It reads files and the environment; a command is not run
// until the key is used.
func (s Source) KEK(getenv func(string) string) (KEK, error) {
	switch {
	case len(s.Command) > 0:
		return OfCommand(s.KeyID, s.Command)
	case s.KeyFile != "":
		return OfFile(s.KeyFile)
	default:
		return OfEnv(s.KeyEnv, getenv)
	}
}

// Keys is the KEKs that a program has: the one that encrypts, and those that
// were used before and may still be needed to open.
type Keys struct {
	Current  KEK
	Previous []KEK
}

// Settings say where a KEK is, as a [Source] does, and those that were used before
// it. At most one of KeyFile, KeyEnv and Command is given; none: there is no key.
type Settings struct {
	// KeyFile has 32 bytes in base64, readable by this program's user alone.
	KeyFile string `yaml:"key_file"`
	// KeyEnv names an environment variable that has them.
	KeyEnv string `yaml:"key_env"`
	// Command is a program that encrypts and decrypts with a key of a key
	// management service, see [OfCommand].
	Command []string `yaml:"command"`
	// KeyID names the key of Command.
	KeyID string `yaml:"key_id"`
	// Previous is where the keys are that were used before this one: what they
	// encrypted still opens with them, until it is encrypted with the new one.
	Previous []Source `yaml:"previous"`
}

// Source is where the KEK is.
func (s Settings) Source() Source {
	return Source{KeyFile: s.KeyFile, KeyEnv: s.KeyEnv, Command: s.Command, KeyID: s.KeyID}
}

// On tells whether there is a key.
func (s Settings) On() bool { return s.Source().On() }

// Check reports settings that contradict each other.
func (s Settings) Check(report func(key, format string, args ...any)) {
	s.Source().Check(report)
	for i, old := range s.Previous {
		if !old.On() {
			report(fmt.Sprintf("previous[%d]", i), "names no key")
		}
	}
}

// Keys gives the keys; it is called where there is one.
func (s Settings) Keys(getenv func(string) string) (Keys, error) {
	kek, err := s.Source().KEK(getenv)
	if err != nil {
		return Keys{}, err
	}
	keys := Keys{Current: kek}
	keys.Previous, err = s.Before(getenv)
	return keys, err
}

// Before gives the keys that were used before.
func (s Settings) Before(getenv func(string) string) (before []KEK, err error) {
	for i, source := range s.Previous {
		old, err := source.KEK(getenv)
		if err != nil {
			return nil, fmt.Errorf("previous key %d: %w", i, err)
		}
		before = append(before, old)
	}
	return before, nil
}

// Find gives the KEK of an id.
func (k Keys) Find(id string) (KEK, bool) {
	if k.Current.ID == id {
		return k.Current, true
	}
	for _, old := range k.Previous {
		if old.ID == id {
			return old, true
		}
	}
	return KEK{}, false
}
