package store

import (
	"context"
	"crypto/tls"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/serve"
)

const (
	// connections is how many transactions of each sort one control plane has at
	// once; more wait.
	connections    = 8
	connectTimeout = 5 * time.Second
	// abandonedAfter is when the server ends the transaction of a control plane
	// that stopped in the middle, so that others go on.
	abandonedAfter = "30s"
	// schemaMark is the comment on the table schema_version of a database that is
	// Vigil's.
	schemaMark = "the records of Vigil"
	// migrationLock keeps two control planes from migrating at once: "VIGL".
	migrationLock = applicationID
	// gate is the table whose lock a transaction takes before its first
	// statement; see postgresEngine.traits.
	gate = "write_gate"
)

// postgresEngine keeps the records in a database that control planes share.
type postgresEngine struct {
	config *pgx.ConnConfig
	name   string
}

func newPostgres(at string) (engine, error) {
	config, err := postgresConfig(at)
	if err != nil {
		return nil, fault.New(fault.Invalid, "open store: its url is not one of PostgreSQL")
	}
	if open := plainHost(config); open != "" {
		return nil, fault.New(fault.Invalid, "open store: "+wantTLS, open)
	}
	name := fmt.Sprintf("postgres://%s/%s", net.JoinHostPort(config.Host, fmt.Sprint(config.Port)), config.Database)
	return postgresEngine{config, name}, nil
}

// postgresConfig reads a URL; its error may have the password in it.
func postgresConfig(at string) (*pgx.ConnConfig, error) {
	if u, err := url.Parse(at); err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return nil, fmt.Errorf("read url: %w", errors.Join(err, errors.ErrUnsupported))
	}
	config, err := pgx.ParseConfig(at)
	if err != nil {
		return nil, err
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	setDefault(config.RuntimeParams, "application_name", "vigil")
	// What is committed is on the server's disk; an operator may ask for more.
	setDefault(config.RuntimeParams, "synchronous_commit", "on")
	setDefault(config.RuntimeParams, "idle_in_transaction_session_timeout", abandonedAfter)
	return config, nil
}

// wantTLS says what is wrong with a database that somebody in between could be.
const wantTLS = "the database at %s is on another machine and would be spoken with unencrypted, or without knowing it; want ?sslmode=verify-full"

// plainHost gives a host on another machine that the connection may go to without
// TLS that checks who is there; "" where there is none. Where there is TLS it is
// 1.3.
func plainHost(config *pgx.ConnConfig) string {
	hosts := []*pgconn.FallbackConfig{{Host: config.Host, Port: config.Port, TLSConfig: config.TLSConfig}}
	for _, host := range append(hosts, config.Fallbacks...) {
		if secure := host.TLSConfig; secure != nil {
			secure.MinVersion = tls.VersionTLS13
			if !secure.InsecureSkipVerify || secure.VerifyPeerCertificate != nil {
				continue
			}
		}
		// A path is a unix socket.
		if !strings.HasPrefix(host.Host, "/") && serve.Loopback(net.JoinHostPort(host.Host, "1")) != "" {
			return host.Host
		}
	}
	return ""
}

func setDefault(params map[string]string, name, value string) {
	if _, ok := params[name]; !ok {
		params[name] = value
	}
}

func (e postgresEngine) place() string { return e.name }

func (e postgresEngine) open() (writer, reader *sql.DB, err error) {
	write := e.config.Copy()
	// A small table is read through its index too: what a serializable
	// transaction has seen is then some rows rather than all of the table, and
	// fewer others get in its way.
	setDefault(write.RuntimeParams, "enable_seqscan", "off")
	// Where there is no index the plan then looks so costly that PostgreSQL would
	// compile it, which takes longer than all else.
	setDefault(write.RuntimeParams, "jit", "off")
	writer, reader = stdlib.OpenDB(*write), stdlib.OpenDB(*e.config.Copy())
	for _, db := range []*sql.DB{writer, reader} {
		db.SetMaxOpenConns(connections)
		db.SetMaxIdleConns(connections)
		db.SetConnMaxIdleTime(5 * time.Minute)
	}
	return writer, reader, nil
}

// inspect refuses a database that others use too, and keeps other control
// planes from migrating.
func (e postgresEngine) inspect(ctx context.Context, db *sql.Conn) (release func(), err error) {
	if _, err := db.ExecContext(ctx, "SELECT pg_advisory_lock($1)", migrationLock); err != nil {
		return nil, fmt.Errorf("wait for others who migrate: %w", err)
	}
	release = func() {
		// A connection that is gone has let go of the lock by that.
		_, _ = db.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", migrationLock)
	}
	if err := e.look(ctx, db); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

func (e postgresEngine) look(ctx context.Context, db *sql.Conn) error {
	var encoding, mark string
	var tables int64
	err := db.QueryRowContext(ctx, `SELECT current_setting('server_encoding'), COALESCE(obj_description(to_regclass('schema_version')), ''),
		(SELECT COUNT(*) FROM pg_tables WHERE schemaname = current_schema())`).Scan(&encoding, &mark, &tables)
	switch {
	case err != nil:
		return fmt.Errorf("look at the database: %w", err)
	case encoding != "UTF8":
		return fault.WithHint(fault.New(fault.Precondition, "its encoding is %s", encoding), "make a database with ENCODING 'UTF8'")
	case mark == schemaMark:
		return nil
	case tables > 0:
		return fault.WithHint(fault.New(fault.Corrupt, "this schema has another program's tables"),
			"give Vigil a database of its own, or a schema by ?search_path=NAME")
	}
	for _, statement := range []string{
		"CREATE TABLE schema_version (version BIGINT PRIMARY KEY, name TEXT NOT NULL, applied BIGINT NOT NULL)",
		"COMMENT ON TABLE schema_version IS '" + schemaMark + "'",
		"CREATE TABLE IF NOT EXISTS " + gate + " ()",
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("mark the database as Vigil's: %w", err)
		}
	}
	return nil
}

// script writes a migration for PostgreSQL: bytes have another name, and texts
// are ordered by their bytes, as in SQLite, wherever the server stands.
func (postgresEngine) script(script string) string {
	comments, texts := regexp.MustCompile(`--[^\n]*`), regexp.MustCompile(`\bTEXT\b`)
	script = comments.ReplaceAllString(script, "")
	script = texts.ReplaceAllString(script, `TEXT COLLATE "C"`)
	return strings.NewReplacer("BLOB", "BYTEA", "x''", "''", " WITHOUT ROWID", "").Replace(script)
}

// traits of PostgreSQL: transactions that write are serializable. The server
// ends one of two that got in each other's way, which is then run again. The
// lock on the gate is taken before the transaction's snapshot; it is shared by
// all until somebody takes it alone, who then sees all that was committed, and
// whom nobody gets in the way of.
func (postgresEngine) traits() traits {
	return traits{
		write: &sql.TxOptions{Isolation: sql.LevelSerializable},
		read:  &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true},

		shared:     true,
		enter:      "LOCK TABLE " + gate + " IN ROW EXCLUSIVE MODE",
		alone:      "LOCK TABLE " + gate + " IN EXCLUSIVE MODE",
		tables:     "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY tablename",
		scrub:      "VACUUM people, record_keys",
		skipLocked: " FOR UPDATE OF o SKIP LOCKED",
		// PostgreSQL cannot keep a NUL in a text. What a sender wrote must not
		// stop anything, and is the same wherever it is looked for.
		text: func(s string) string { return strings.ReplaceAll(s, "\x00", "\uFFFD") },
	}
}

// The server's codes that say something of the kind of an error.
// Source: PostgreSQL's documentation, appendix A.
const (
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	readOnlyTransaction  = "25006"
	invalidPassword      = "28P01"
	insufficientRights   = "42501"
)

// inTheWay tells whether a transaction failed only because of another one.
func inTheWay(err error) bool {
	server, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (server.Code == serializationFailure || server.Code == deadlockDetected)
}

// gone tells whether the connection broke.
func gone(err error) bool {
	_, network := errors.AsType[net.Error](err)
	return network || pgconn.SafeToRetry(err) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, pgconn.ErrConnClosed)
}

// classifyPostgres gives PostgreSQL's errors their kinds.
func classifyPostgres(err error) error {
	if _, refused := errors.AsType[*pgconn.ConnectError](err); refused {
		return fault.WithHint(fault.Mark(fault.Unavailable, err), "is PostgreSQL there, and may Vigil connect?")
	}
	server, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		if gone(err) {
			return fault.Mark(fault.Unavailable, err)
		}
		return err
	}
	switch server.Code {
	case serializationFailure, deadlockDetected:
		return fault.Mark(fault.Unavailable, err)
	case readOnlyTransaction, invalidPassword, insufficientRights:
		return fault.Mark(fault.Denied, err)
	}
	switch server.Code[:2] { // the class
	case "08", "57": // connection exception, operator intervention
		return fault.Mark(fault.Unavailable, err)
	case "53": // insufficient resources
		return fault.WithHint(fault.Mark(fault.Exhausted, err), "PostgreSQL is out of connections, memory or disk")
	case "XX":
		return fault.WithHint(fault.Mark(fault.Corrupt, err), "PostgreSQL found damage: restore a backup")
	}
	return err
}
