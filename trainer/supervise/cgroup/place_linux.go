package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// places is where a process' control groups are; empty: that hierarchy is not
// there.
type places struct {
	unified string // of version 2
	memory  string // of the memory controller of version 1
}

// find gives the directories of the control groups that a process is in. Proc is
// its directory, usually /proc/self.
func find(proc string) (places, error) {
	groups, err := os.ReadFile(filepath.Join(proc, "cgroup"))
	if err != nil {
		return places{}, fmt.Errorf("find control groups: %w", err)
	}
	mounts, err := os.ReadFile(filepath.Join(proc, "mountinfo"))
	if err != nil {
		return places{}, fmt.Errorf("find control groups: %w", err)
	}
	var p places
	for line := range strings.Lines(string(groups)) {
		// 0::/a or 4:memory:/a
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		switch {
		case fields[0] == "0" && fields[1] == "":
			p.unified = placeOf(string(mounts), fields[2], func(kind, _ string) bool { return kind == "cgroup2" })
		case slices.Contains(strings.Split(fields[1], ","), "memory"):
			p.memory = placeOf(string(mounts), fields[2], func(kind, options string) bool {
				return kind == "cgroup" && slices.Contains(strings.Split(options, ","), "memory")
			})
		}
	}
	return p, nil
}

// placeOf gives where a control group is below the mount of its hierarchy; empty
// when no mount shows it.
func placeOf(mounts, group string, is func(kind, options string) bool) string {
	for line := range strings.Lines(mounts) {
		before, after, found := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !found || len(left) < 5 || len(right) < 3 || !is(right[0], right[2]) {
			continue
		}
		root, point := left[3], left[4]
		inside, err := filepath.Rel(root, group)
		if err != nil || inside == ".." || strings.HasPrefix(inside, "../") {
			continue
		}
		dir := filepath.Join(point, inside)
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
	}
	return ""
}
