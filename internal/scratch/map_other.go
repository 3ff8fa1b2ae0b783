//go:build unix && !linux

package scratch

// populate is nothing here: pages are mapped as they are met.
const populate = 0
