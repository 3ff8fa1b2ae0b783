package bus

import (
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/vigil-ml/vigil/internal/fault"
)

// layout is how subjects are made: into how many partitions the frames of runs
// are divided. With one a subject is vigil.event.<source>.<run>. With more it
// is vigil.event.<class>.<source>.<run>, where the class is "p" and the run's
// partition or, for what belongs to no run, "n".
type layout struct{ partitions int }

// classOfNodes is the class of frames that belong to no run.
const classOfNodes = "n."

// partitionOf gives the partition of a run, or of a node by its name.
func (l layout) partitionOf(name string) int {
	if l.partitions <= 1 {
		return 0
	}
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(name))
	return int(sum.Sum32() % uint32(l.partitions))
}

func (l layout) class(run string) string {
	switch {
	case l.partitions <= 1:
		return ""
	case run == "":
		return classOfNodes
	}
	return classOf(l.partitionOf(run))
}

func classOf(partition int) string { return "p" + strconv.Itoa(partition) + "." }

// any is a wildcard for a class.
func (l layout) any() string {
	if l.partitions <= 1 {
		return ""
	}
	return "*."
}

func (l layout) subject(source, run string) string {
	return subjectPrefix + l.class(run) + source + "." + token(run)
}

func (l layout) all() string { return subjectPrefix + l.any() + "*.*" }

func (l layout) ofSource(source string) string { return subjectPrefix + l.any() + source + ".*" }

// ofNode are those of what has no run: the node's own events.
func (l layout) ofNode(node string) []string {
	return []string{l.subject(sourceOf(node, false), ""), l.subject(sourceOf(node, true), "")}
}

func (l layout) ofRun(run string) string {
	return subjectPrefix + l.class(run) + "*." + token(run)
}

// ofPartition are those of a partition's runs and of all nodes.
func (l layout) ofPartition(partition int) []string {
	if l.partitions <= 1 {
		return []string{l.all()}
	}
	return []string{subjectPrefix + classOf(partition) + "*.*", subjectPrefix + classOfNodes + "*.*"}
}

// node gives the node's name, and whether the control plane itself speaks of it.
func (l layout) node(subject string) (node string, own bool, err error) {
	rest := strings.TrimPrefix(subject, subjectPrefix)
	if l.partitions > 1 {
		_, rest, _ = strings.Cut(rest, ".")
	}
	source, _, ok := strings.Cut(rest, ".")
	if !ok {
		return "", false, fault.New(fault.Corrupt, "read subject %q: it has no run", subject)
	}
	name, own := strings.CutSuffix(source, ownMark)
	node, err = untoken(name)
	return node, own, err
}
