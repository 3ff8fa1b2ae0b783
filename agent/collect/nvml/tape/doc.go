// Package tape records what NVML answers on a real machine, call by call, and
// plays it back where there is no GPU: the answers of real devices drive tests.
//
// A tape is lines of JSON. Names that tell one device from another, such as
// serial numbers and UUIDs, are replaced before anything is written. It is used
// by tests alone; `internal/tools/gpu-check.sh` makes a tape.
package tape
