package testkit

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// SharedDir is a directory that every user of the machine can reach, as that of
// testing.T is not. It skips the test where nobody can be several users.
func SharedDir(t testing.TB) string {
	t.Helper()
	RequireRoot(t)
	dir, err := os.MkdirTemp("", "vigil-test-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// ShellAs is a shell of a user that runs a script, which has args as $1 and on. The
// test must be root.
func ShellAs(uid uint32, script string, args ...string) *exec.Cmd {
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, "sh"}, args...)...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd
}

// Can has a user do something, and gives what it printed.
func Can(t testing.TB, uid uint32, script string, args ...string) string {
	t.Helper()
	out, err := ShellAs(uid, script, args...).CombinedOutput()
	if err != nil {
		t.Errorf("user %d: %s: %v\n%s", uid, script, err, out)
	}
	return string(out)
}

// Cannot has a user try something that must fail.
func Cannot(t testing.TB, uid uint32, script string, args ...string) {
	t.Helper()
	if out, err := ShellAs(uid, script, args...).CombinedOutput(); err == nil {
		t.Errorf("user %d did this: %s\n%s", uid, script, out)
	}
}
