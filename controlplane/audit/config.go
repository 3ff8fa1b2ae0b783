package audit

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/controlplane/audit/trail"
)

const day = 24 * time.Hour

// Unflagged is the name, among the retentions, of what has no flag.
const Unflagged = "none"

// Config is what users say about the audit log.
type Config struct {
	// KeyFile holds the key that signs the log; it is made when it is not there.
	// Replicas that share a store need the same.
	KeyFile string `yaml:"key_file"`
	// Copies are directories that get a copy of every record; best on a machine,
	// or at least a disk, other than the store's.
	Copies []string `yaml:"copies"`
	// Buckets are copies in object stores.
	Buckets []BucketConfig `yaml:"buckets"`
	// Reads has calls that only read recorded too.
	Reads bool `yaml:"reads"`
	// Flags says for which rules the records of a class count: GDPR, HIPAA, SOX,
	// PCI, or names of the site's own.
	Flags map[string][]string `yaml:"flags"`
	// Retention is how long records with a flag are kept, and those with none
	// ("none"). A record is kept for as long as the longest of its flags asks.
	Retention map[string]time.Duration `yaml:"retention"`
}

// Defaults flags each class for the rules under which auditors commonly ask for
// it, and keeps records for as long as those rules commonly ask. What a site must
// keep is for the site to say: these are tags, not legal advice.
func Defaults(dir string) Config {
	return Config{
		KeyFile: dir + "/signing.key",
		Flags: map[string][]string{
			string(trail.Act):    {"SOX"},
			string(trail.Admin):  {"SOX", "PCI", "HIPAA"},
			string(trail.SignIn): {"PCI", "HIPAA", "GDPR"},
			string(trail.Denied): {"PCI", "HIPAA"},
			string(trail.Key):    {"PCI", "HIPAA", "GDPR"},
			string(trail.Export): {"GDPR", "HIPAA", "SOX"},
		},
		Retention: map[string]time.Duration{
			"GDPR": 3 * 365 * day, "PCI": 366 * day, "HIPAA": 6 * 366 * day, "SOX": 7 * 366 * day, Unflagged: 90 * day,
		},
	}
}

// Check reports classes that there are not and flags that nothing is said of.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.KeyFile == "" {
		report("key_file", "is empty; name the file of the key that signs the log")
	}
	for class, flags := range c.Flags {
		if !slices.Contains(trail.Classes(), trail.Class(class)) {
			report("flags", "there is no class %q; there are %s", class, classNames())
		}
		for _, flag := range flags {
			if c.Retention[flag] <= 0 {
				report("retention", "says nothing of flag %s; want a duration above 0", flag)
			}
		}
	}
	if c.Retention[Unflagged] <= 0 {
		report("retention", "says nothing of %q, what has no flag; want a duration above 0", Unflagged)
	}
}

func classNames() string {
	var names []string
	for _, class := range trail.Classes() {
		names = append(names, string(class))
	}
	return strings.Join(names, ", ")
}

// expires is when a record of a class may be let go of. The log's own records
// stay for ever: without them nobody knew what it let go of.
func (c Config) expires(class trail.Class, now time.Time) time.Time {
	if class == trail.Log {
		return time.Unix(0, 1<<63-1)
	}
	flags := c.Flags[string(class)]
	if len(flags) == 0 {
		flags = []string{Unflagged}
	}
	var longest time.Duration
	for _, flag := range flags {
		longest = max(longest, c.Retention[flag])
	}
	return now.Add(longest)
}

// shortest is how long every record is kept at least.
func (c Config) shortest() time.Duration {
	return slices.Min(slices.Collect(maps.Values(c.Retention)))
}
