package report

// shares turns counters into shares: of time, or of one counter in another.
type shares map[string]*share

// share is the last two readings that differ, as what came of them.
type share struct {
	part, whole float64
	ratio       float64
	known       bool
	used        bool // since forget was called
}

// of gives by how much part grew as a share of what whole grew by, since the
// reading before. Without a newer reading the last share holds; after a counter
// that went back, or on the first reading, it is not known.
func (s shares) of(key string, part, whole float64) (float64, bool) {
	last, ok := s[key]
	if !ok {
		s[key] = &share{part: part, whole: whole, used: true}
		return 0, false
	}
	last.used = true
	switch {
	case whole == last.whole && part == last.part:
	case whole > last.whole && part >= last.part:
		last.ratio, last.known = (part-last.part)/(whole-last.whole), true
	default:
		last.known = false
	}
	last.part, last.whole = part, whole
	return last.ratio, last.known
}

// forget drops what was not asked for since it was called before.
func (s shares) forget() {
	for key, share := range s {
		if !share.used {
			delete(s, key)
			continue
		}
		share.used = false
	}
}
