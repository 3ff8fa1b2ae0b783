package e2e

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sockets gives the sockets of a process, by inode.
func sockets(t *testing.T, pid int) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(links) == 0 {
		t.Fatalf("process %d has no files: %v", pid, err)
	}
	for _, link := range links {
		target, _ := os.Readlink(link) // one may have been closed by now
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			found[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return found
}

// table reads one of the kernel's lists of sockets.
func table(t *testing.T, pid int, protocol string) (rows [][]string) {
	t.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, protocol))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	lines.Scan() // the head
	for lines.Scan() {
		rows = append(rows, strings.Fields(lines.Text()))
	}
	return rows
}

// hostPort reads an address as the kernel writes it.
func hostPort(t *testing.T, text string) string {
	t.Helper()
	host, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	n, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil {
		t.Fatalf("address %q", text)
	}
	for i := 0; i+4 <= len(raw); i += 4 { // words in the machine's order
		binary.BigEndian.PutUint32(raw[i:], binary.NativeEndian.Uint32(raw[i:]))
	}
	ip, _ := netip.AddrFromSlice(raw)
	return net.JoinHostPort(ip.Unmap().String(), fmt.Sprint(n))
}

// listens gives everything that a process can be reached at.
func listens(t *testing.T, pid int) (at []string) {
	t.Helper()
	own := sockets(t, pid)
	const listening, unconnected = "0A", "07" // states of TCP and of UDP
	for _, protocol := range []string{"tcp", "tcp6", "udp", "udp6"} {
		for _, row := range table(t, pid, protocol) {
			if len(row) < 10 || !own[row[9]] {
				continue
			}
			if state := row[3]; state == listening || (strings.HasPrefix(protocol, "udp") && state == unconnected) {
				at = append(at, strings.TrimSuffix(protocol, "6")+" "+hostPort(t, row[1]))
			}
		}
	}
	for _, row := range table(t, pid, "unix") {
		const accepts = "00010000" // __SO_ACCEPTCON
		if len(row) >= 8 && own[row[6]] && row[3] == accepts {
			at = append(at, "unix "+row[7])
		}
	}
	slices.Sort(at)
	return at
}

// TestNothingElseListens: the programs can be reached where docs/access.md says,
// and nowhere else, as the kernel has it.
func TestNothingElseListens(t *testing.T) {
	h := open(t, "", "")
	for _, tc := range []struct {
		program string
		pid     int
		want    []string
	}{
		{"vigil-controlplane", h.controlPlane.PID(), []string{"tcp " + h.API, "tcp " + h.Agents}},
		{"vigil-agent", h.agent.PID(), []string{"tcp " + h.Metrics, "unix " + h.Socket}},
	} {
		slices.Sort(tc.want)
		if diff := cmp.Diff(tc.want, listens(t, tc.pid)); diff != "" {
			t.Errorf("%s listens elsewhere too (-documented +listens):\n%s", tc.program, diff)
		}
	}
	// The test can fail: what another process listens on is seen.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if !slices.Contains(listens(t, os.Getpid()), "tcp "+l.Addr().String()) {
		t.Errorf("a listener of this process is not seen: %v", listens(t, os.Getpid()))
	}
}
