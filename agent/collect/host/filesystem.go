package host

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/agent/collect/sysfile"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
)

// remoteWait is how long a file system of another machine may take to answer.
const remoteWait = 500 * time.Millisecond

func (c *collector) fileSystems(ctx context.Context, emit gauge) error {
	mounts, err := c.mounts()
	if err != nil {
		return err
	}
	var wrong error
	for _, m := range mounts {
		stat, err := c.disks.stat(ctx, filepath.Join(c.config.Root, m.path), m.remote)
		switch {
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOENT):
			continue // not ours to see, or just unmounted
		case err != nil:
			wrong = errors.Join(wrong, fmt.Errorf("measure %s: %w", m.path, err))
			continue
		case stat.Blocks == 0:
			continue
		}
		label := c.labels.of([]byte(m.path))
		block := float64(cmp.Or(stat.Frsize, stat.Bsize))
		emit(metric.HostDiskTotal, float64(stat.Blocks)*block, label)
		emit(metric.HostDiskInfo, 1, m.info)
		emit(metric.HostDiskFree, float64(stat.Bfree)*block, label)
		emit(metric.HostDiskAvailable, float64(stat.Bavail)*block, label)
		if stat.Files > 0 {
			emit(metric.HostDiskInodes, float64(stat.Files), label)
			emit(metric.HostDiskInodesFree, float64(stat.Ffree), label)
		}
		readOnly := 0.0
		if stat.Flags&unix.ST_RDONLY != 0 {
			readOnly = 1
		}
		emit(metric.HostDiskReadOnly, readOnly, label)
	}
	return wrong
}

// mounts gives the mounts as the machine's first process sees them, or the
// agent where that is not for it to read. The list is made anew only when the
// file has changed.
func (c *collector) mounts() ([]mount, error) {
	data, err := c.read.Read(c.proc("1/mountinfo"))
	if missing(err) {
		data, err = c.read.Read(c.proc("self/mountinfo"))
	}
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(data, c.disks.file) || c.disks.mounts == nil {
		c.disks.file = append(c.disks.file[:0], data...)
		c.disks.mounts = realMounts(data)
	}
	return c.disks.mounts, nil
}

// mount is a file system that can fill up.
type mount struct {
	path   string
	device string // major:minor
	remote bool
	info   []string // the labels of its info: path, source and type
}

// realMounts picks the file systems that hold data: those on a block device,
// those of other machines, and the memory ones that a trainer may stage in.
// Each is given once, under its shortest path.
func realMounts(data []byte) []mount {
	byDevice := map[string]mount{}
	for line := range sysfile.Lines(data) {
		info, ok := readMount(line)
		if !ok {
			continue
		}
		remote, ok := info.holdsData()
		if !ok {
			continue
		}
		m := mount{path: unescape(info.path), device: info.device, remote: remote}
		m.info = []string{m.path, unescape(info.source), info.kind}
		if other, ok := byDevice[m.device]; !ok || len(m.path) < len(other.path) {
			byDevice[m.device] = m
		}
	}
	mounts := make([]mount, 0, len(byDevice))
	for _, m := range byDevice {
		mounts = append(mounts, m)
	}
	// Of two at one path only the upper can be seen, and statfs gives that one.
	slices.SortFunc(mounts, func(a, b mount) int { return cmp.Compare(a.path, b.path) })
	return slices.CompactFunc(mounts, func(a, b mount) bool { return a.path == b.path })
}

// mountInfo is a line of mountinfo, see proc_pid_mountinfo(5).
type mountInfo struct {
	device, path, kind, source string
}

func readMount(line []byte) (mountInfo, bool) {
	before, after, ok := bytes.Cut(line, []byte(" - "))
	var first [5][]byte
	var last [2][]byte
	if !ok || sysfile.Fields(before, first[:]) < len(first) || sysfile.Fields(after, last[:]) < len(last) {
		return mountInfo{}, false
	}
	return mountInfo{
		device: string(first[2]), path: string(first[4]), kind: string(last[0]), source: string(last[1]),
	}, true
}

func (m mountInfo) holdsData() (remote, ok bool) {
	switch m.kind {
	case "squashfs", "iso9660", "erofs":
		return false, false // read-only images are always full
	case "nfs", "nfs4", "lustre", "ceph", "gpfs", "beegfs", "wekafs", "cifs", "smb3", "glusterfs", "fuse.juicefs":
		return true, true
	case "zfs", "btrfs", "virtiofs", "9p":
		return false, true
	case "tmpfs":
		return false, m.path == "/dev/shm"
	case "overlay":
		return false, m.path == "/" // a container's own root
	}
	return false, strings.HasPrefix(m.source, "/dev/")
}

// unescape reads the \040 of mountinfo.
func unescape(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '\\' && i+3 < len(path) {
			if n, err := strconv.ParseUint(path[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(path[i])
	}
	return b.String()
}

// fileSystems asks file systems for their size. One of another machine may
// never answer: it is asked in a goroutine of its own, waited for briefly, and
// not asked again until it has answered.
type fileSystems struct {
	statfs func(path string, into *unix.Statfs_t) error
	file   []byte  // mountinfo as it was
	mounts []mount // made of it

	mu      sync.Mutex
	pending map[string]bool
}

func newFileSystems(statfs func(string, *unix.Statfs_t) error) *fileSystems {
	return &fileSystems{statfs: statfs, pending: map[string]bool{}}
}

func (f *fileSystems) stat(ctx context.Context, path string, remote bool) (unix.Statfs_t, error) {
	var stat unix.Statfs_t
	if !remote {
		err := f.statfs(path, &stat)
		return stat, err
	}
	if !f.begin(path) {
		return stat, fault.New(fault.Deadline, "the file system still does not answer")
	}
	ctx, cancel := context.WithTimeout(ctx, remoteWait)
	defer cancel()
	answer := make(chan unix.Statfs_t, 1)
	group := life.NewGroup(context.WithoutCancel(ctx))
	group.Go("statfs "+path, func(context.Context) error {
		stat, err := f.ask(path)
		if err != nil {
			return err
		}
		answer <- stat
		return nil
	})
	select {
	case stat = <-answer:
		return stat, nil
	case <-group.Context().Done():
		return stat, group.Wait()
	case <-ctx.Done():
		return stat, fault.New(fault.Deadline, "the file system does not answer within %v", remoteWait)
	}
}

// ask asks, and says that the path may be asked again before anyone hears the
// answer.
func (f *fileSystems) ask(path string) (stat unix.Statfs_t, err error) {
	defer f.end(path)
	err = f.statfs(path, &stat)
	return stat, err
}

func (f *fileSystems) begin(path string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pending[path] {
		return false
	}
	f.pending[path] = true
	return true
}

func (f *fileSystems) end(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pending, path)
}
