// Package slurm runs a real SLURM for tests: one controller and one node on
// loopback, in a directory of the test's, with processors that do not exist.
package slurm

import (
	"crypto/rand"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/testkit"
)

const (
	// Node is the name of the one node.
	Node = "vigil-n1"
	// startWait is how long the parts may take to be ready together.
	startWait = time.Minute
	pollEvery = 50 * time.Millisecond
)

// Cluster is a running SLURM. It ends with the test.
type Cluster struct {
	// Environ is what srun, scontrol and the others must have in their
	// environment, as NAME=value.
	Environ []string

	t   testing.TB
	dir string
}

// Start starts a cluster whose node is idle. Where SLURM is not installed the
// test is skipped, or fails where VIGIL_REQUIRE asks for it.
func Start(t testing.TB) *Cluster {
	t.Helper()
	for _, program := range []string{"slurmctld", "slurmd", "munged"} {
		testkit.Require(t, program, "/usr/sbin/"+program)
	}
	testkit.Require(t, "srun")
	if os.Getuid() != 0 {
		t.Skip("slurmd runs tasks as other users, and only root can")
	}
	// A socket's path must be short.
	dir, err := os.MkdirTemp("", "vigil-slurm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := &Cluster{t: t, dir: dir, Environ: []string{"SLURM_CONF=" + filepath.Join(dir, "slurm.conf")}}
	c.configure()
	for _, name := range []string{"state", "spool"} {
		if err := os.Mkdir(c.path(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c.daemon("/usr/sbin/munged", "--foreground", "--force", "--num-threads=2", "--key-file="+c.path("munge.key"),
		"--socket="+c.path("munge.sock"), "--pid-file="+c.path("munged.pid"), "--log-file="+c.path("munged.log"), "--seed-file="+c.path("munge.seed"))
	c.until("munge", func() bool { _, err := os.Stat(c.path("munge.sock")); return err == nil })
	c.daemon("/usr/sbin/slurmctld", "-D", "-i")
	c.daemon("/usr/sbin/slurmd", "-D", "-N", Node)
	c.until("the node", func() bool { return c.State() == "idle" })
	return c
}

func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

// configure writes the key and the configuration.
func (c *Cluster) configure() {
	c.t.Helper()
	key := make([]byte, 128)
	_, _ = rand.Read(key)
	host, err := os.Hostname()
	if err != nil {
		c.t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		c.t.Fatal(err)
	}
	text := strings.NewReplacer("DIR", c.dir, "HOST", host, "USER", me.Username, "NODE", Node,
		"PORT1", testkit.FreePort(c.t), "PORT2", testkit.FreePort(c.t)).Replace(configuration)
	for name, content := range map[string]string{"munge.key": string(key), "slurm.conf": text, "cgroup.conf": "CgroupAutomount=no\n"} {
		if err := os.WriteFile(c.path(name), []byte(content), 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
}

// configuration has a node with more processors than the machine may have, and
// keeps SLURM's hands off control groups.
const configuration = `ClusterName=vigil
SlurmctldHost=HOST(127.0.0.1)
SlurmctldPort=PORT1
SlurmdPort=PORT2
SlurmUser=USER
AuthType=auth/munge
AuthInfo=socket=DIR/munge.sock
CredType=cred/munge
StateSaveLocation=DIR/state
SlurmdSpoolDir=DIR/spool
SlurmctldPidFile=DIR/slurmctld.pid
SlurmdPidFile=DIR/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=2
MpiDefault=none
NodeName=NODE NodeHostname=HOST NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=p Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE
`

// daemon starts a program that the test's end ends.
func (c *Cluster) daemon(program string, args ...string) {
	c.t.Helper()
	log, err := os.Create(c.path(filepath.Base(program) + ".out"))
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), c.Environ...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
	})
}

func (c *Cluster) until(what string, holds func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(startWait); !holds(); time.Sleep(pollEvery) {
		if time.Now().After(deadline) {
			for _, name := range []string{"munged.out", "slurmctld.out", "slurmd.out"} {
				text, _ := os.ReadFile(c.path(name))
				c.t.Logf("%s:\n%s", name, text)
			}
			c.t.Fatalf("waited %s for %s of SLURM", startWait, what)
		}
	}
}

// Run runs a program of SLURM's and gives what it prints.
func (c *Cluster) Run(program string, args ...string) (string, error) {
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), c.Environ...)
	text, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(text)), err
}

// State gives the node's state in short, for instance "idle" or "drain".
func (c *Cluster) State() string {
	text, _ := c.Run("sinfo", "-h", "-o", "%t")
	return text
}
