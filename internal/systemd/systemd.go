// Package systemd tells the service manager how a program is, over the socket
// that the manager gives it (sd_notify(3)). Without a manager nothing happens.
package systemd

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// What is told.
const (
	Ready    = "READY=1"    // the program does its work
	Stopping = "STOPPING=1" // it is about to end
	Alive    = "WATCHDOG=1" // it still does its work
)

// Manager is the service manager; the zero one is none.
type Manager struct {
	socket   string
	watchdog time.Duration
}

// FromEnvironment finds the manager that started this process.
func FromEnvironment() Manager {
	m := Manager{socket: os.Getenv("NOTIFY_SOCKET")}
	micros, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	forUs := os.Getenv("WATCHDOG_PID") == "" || os.Getenv("WATCHDOG_PID") == strconv.Itoa(os.Getpid())
	if err == nil && micros > 0 && forUs {
		m.watchdog = time.Duration(micros) * time.Microsecond
	}
	return m
}

// Watchdog is how long the manager waits for a sign of life before it restarts
// the program; 0 when it does not.
func (m Manager) Watchdog() time.Duration { return m.watchdog }

// Tell sends a state.
func (m Manager) Tell(state string) error {
	if m.socket == "" {
		return nil
	}
	// A name that begins with @ is in the abstract namespace; net knows that.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}
