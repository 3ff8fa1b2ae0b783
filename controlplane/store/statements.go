package store

import (
	"context"
	"database/sql/driver"
	"errors"

	"modernc.org/sqlite"
)

// statementsKept is how many prepared statements a connection keeps; the
// store's code has fewer, but for lists of names that grow.
const statementsKept = 256

// connector opens connections to the SQLite file that keep their prepared
// statements: to read a statement's text costs the engine more than to run it.
type connector struct{ driver.Connector }

// newConnector opens nothing yet.
func newConnector(dsn string) (driver.Connector, error) {
	base, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	return connector{base}, nil
}

// Connect opens one connection.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	opened, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	of, ok := opened.(engineConn)
	if !ok {
		return nil, errors.Join(errors.New("open connection: the engine's lacks what statements are kept with"), opened.Close())
	}
	return &conn{engineConn: of, kept: map[string]*statement{}}, nil
}

// engineConn is what the engine's connection has and database/sql asks for.
type engineConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.Pinger
	sessionConn
}

// sessionConn is how database/sql looks after a connection in its pool.
type sessionConn interface {
	driver.SessionResetter
	driver.Validator
}

// conn is a connection with its prepared statements. Like every driver.Conn it
// is used by one goroutine at a time.
type conn struct {
	engineConn
	kept map[string]*statement
}

// statement is a prepared statement. One that gives rows is busy until they
// are closed.
type statement struct {
	driver.Stmt
	busy bool
}

// Unwrap gives the engine's connection.
func (c *conn) Unwrap() driver.Conn { return c.engineConn }

// Close closes the statements and the connection.
func (c *conn) Close() error {
	return errors.Join(c.forget(), c.engineConn.Close())
}

// forget closes the statements that are not busy.
func (c *conn) forget() error {
	var errs []error
	for text, s := range c.kept {
		if !s.busy {
			errs = append(errs, s.Close())
			delete(c.kept, text)
		}
	}
	return errors.Join(errs...)
}

// take gives the prepared statement of a text. Where that one is busy, it is a
// second one that is not kept.
func (c *conn) take(ctx context.Context, text string) (*statement, error) {
	if s := c.kept[text]; s != nil && !s.busy {
		s.busy = true
		return s, nil
	}
	if len(c.kept) >= statementsKept {
		if err := c.forget(); err != nil {
			return nil, err
		}
	}
	prepared, err := c.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	s := &statement{Stmt: prepared, busy: true}
	if c.kept[text] == nil {
		c.kept[text] = s
	}
	return s, nil
}

// give ends the use of a statement.
func (c *conn) give(text string, s *statement) error {
	s.busy = false
	if c.kept[text] != s {
		return s.Close()
	}
	return nil
}

// ExecContext runs a statement that gives no rows.
func (c *conn) ExecContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Result, error) {
	s, err := c.take(ctx, text)
	if err != nil {
		return nil, err
	}
	result, err := s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
	return result, errors.Join(err, c.give(text, s))
}

// QueryContext runs a statement that gives rows.
func (c *conn) QueryContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Rows, error) {
	s, err := c.take(ctx, text)
	if err != nil {
		return nil, err
	}
	got, err := s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
	if err != nil {
		return nil, errors.Join(err, c.give(text, s))
	}
	return &rows{Rows: got, done: func() error { return c.give(text, s) }}, nil
}

// rows gives its statement back when it is closed.
type rows struct {
	driver.Rows
	done func() error
}

// Close ends the reading.
func (r *rows) Close() error {
	if r.done == nil {
		return nil
	}
	err := errors.Join(r.Rows.Close(), r.done())
	r.done = nil
	return err
}
