package host

import (
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

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
)

const (
	// sectorBytes is the unit of /proc/diskstats, whatever the device's own is.
	sectorBytes = 512
	// remoteWait is how long a file system of another machine may take to
	// answer.
	remoteWait = 500 * time.Millisecond
)

// devices emits what whole block devices read and wrote; partitions, loop
// devices and RAM disks are left out.
func (c *collector) devices(_ context.Context, emit gauge) error {
	whole, err := c.block.SysBlockDevices()
	if err != nil {
		return err
	}
	stats, err := c.block.ProcDiskstats()
	if err != nil {
		return err
	}
	for _, d := range stats {
		if !slices.Contains(whole, d.DeviceName) || madeOfMemoryOrFiles(d.DeviceName) {
			continue
		}
		emit(metric.HostDiskRead, float64(d.ReadSectors)*sectorBytes, d.DeviceName)
		emit(metric.HostDiskWritten, float64(d.WriteSectors)*sectorBytes, d.DeviceName)
	}
	return nil
}

func madeOfMemoryOrFiles(device string) bool {
	for _, prefix := range []string{"loop", "ram", "zram"} {
		if strings.HasPrefix(device, prefix) {
			return true
		}
	}
	return false
}

func (c *collector) fileSystems(ctx context.Context, emit gauge) error {
	all, err := c.proc.GetMounts()
	if err != nil {
		return err
	}
	var wrong error
	for _, m := range realMounts(all) {
		stat, err := c.disks.stat(ctx, filepath.Join(c.root, m.path), m.remote)
		switch {
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOENT):
			continue // not ours to see, or just unmounted
		case err != nil:
			wrong = errors.Join(wrong, fmt.Errorf("measure %s: %w", m.path, err))
			continue
		case stat.Blocks == 0:
			continue
		}
		block := float64(cmp.Or(stat.Frsize, stat.Bsize))
		emit(metric.HostDiskTotal, float64(stat.Blocks)*block, m.path)
		emit(metric.HostDiskAvailable, float64(stat.Bavail)*block, m.path)
	}
	return wrong
}

// mount is a file system that can fill up.
type mount struct {
	path   string
	device string // major:minor
	remote bool
}

// realMounts picks the file systems that hold data: those on a block device,
// those of other machines, and the memory ones that a trainer may stage in.
// Each is given once, under its shortest path.
func realMounts(all []*procfs.MountInfo) []mount {
	byDevice := map[string]mount{}
	for _, info := range all {
		remote, ok := holdsData(info)
		if !ok {
			continue
		}
		m := mount{path: unescape(info.MountPoint), device: info.MajorMinorVer, remote: remote}
		if other, ok := byDevice[m.device]; !ok || len(m.path) < len(other.path) {
			byDevice[m.device] = m
		}
	}
	var mounts []mount
	for _, m := range byDevice {
		mounts = append(mounts, m)
	}
	// Of two at one path only the upper can be seen, and statfs gives that one.
	slices.SortFunc(mounts, func(a, b mount) int { return cmp.Compare(a.path, b.path) })
	return slices.CompactFunc(mounts, func(a, b mount) bool { return a.path == b.path })
}

func holdsData(info *procfs.MountInfo) (remote, ok bool) {
	switch info.FSType {
	case "squashfs", "iso9660", "erofs":
		return false, false // read-only images are always full
	case "nfs", "nfs4", "lustre", "ceph", "gpfs", "beegfs", "wekafs", "cifs", "smb3", "glusterfs", "fuse.juicefs":
		return true, true
	case "zfs", "btrfs", "virtiofs", "9p":
		return false, true
	case "tmpfs":
		return false, info.MountPoint == "/dev/shm"
	case "overlay":
		return false, info.MountPoint == "/" // a container's own root
	}
	return false, strings.HasPrefix(info.Source, "/dev/")
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
