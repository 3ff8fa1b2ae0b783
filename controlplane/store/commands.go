package store

import (
	"database/sql"
	"fmt"
	"time"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// CommandState is how far a command has come. States only ever advance; from
// CommandDone on it is closed.
type CommandState int

// The states.
const (
	CommandPending  CommandState = 1  // waits to be sent
	CommandSent     CommandState = 2  // went into the agent's stream
	CommandAccepted CommandState = 3  // the agent has it
	CommandDone     CommandState = 10 // the agent did it
	CommandFailed   CommandState = 11 // the agent gave it up
	CommandExpired  CommandState = 12 // past its deadline without an answer
)

// Open tells whether the command still waits for something.
func (s CommandState) Open() bool { return s < CommandDone }

// Command is something for one agent to do.
type Command struct {
	ID             string
	IdempotencyKey string // one command for each
	Node           string // the agent that shall do it
	RunID          string
	CheckpointID   string // the checkpoint that it makes; may be empty
	Wire           *agentv1.Command
	State          CommandState // zero means CommandPending
	Created        time.Time
	Deadline       time.Time
	Error          string // why it was given up
}

// InsertCommand writes a new command; false when one with its idempotency key
// is there already, which then stays as it is.
func (tx *Tx) InsertCommand(c Command) (inserted bool, err error) {
	body, err := marshal(c.Wire)
	if err != nil {
		return false, err
	}
	rows, err := tx.exec(`INSERT INTO commands
		(command_id, idempotency_key, node, run_id, checkpoint_id, state, created, deadline, error, body)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (idempotency_key) DO NOTHING`,
		c.ID, c.IdempotencyKey, c.Node, c.RunID, c.CheckpointID, max(c.State, CommandPending),
		nanos(c.Created), nanos(c.Deadline), c.Error, body)
	if err != nil {
		return false, fmt.Errorf("insert command %s: %w", c.ID, err)
	}
	if rows == 0 {
		return false, nil
	}
	tx.touch(TopicCommands)
	return true, nil
}

// SetCommandState advances a command and notes why, when it was given up. A
// state that it has reached or passed already changes nothing, and a closed
// command stays as it is.
func (tx *Tx) SetCommandState(id string, state CommandState, errText string) error {
	rows, err := tx.exec("UPDATE commands SET state = $1, error = $2 WHERE command_id = $3 AND state < $1 AND state < 10",
		state, errText, id)
	if err != nil {
		return fmt.Errorf("set state of command %s: %w", id, err)
	}
	if rows == 0 {
		_, err := tx.Command(id) // not there, or not to be changed?
		return err
	}
	tx.touch(TopicCommands)
	return nil
}

// Command gives a command.
func (tx *Tx) Command(id string) (Command, error) {
	found, err := tx.commands("command "+id, "command_id = $1", id)
	if err == nil && len(found) == 0 {
		err = notFound("command " + id)
	}
	if err != nil {
		return Command{}, err
	}
	return found[0], nil
}

// CommandsOf gives the commands that make a checkpoint, by node.
func (tx *Tx) CommandsOf(checkpointID string) ([]Command, error) {
	return tx.commands("commands of checkpoint "+checkpointID, "checkpoint_id = $1 ORDER BY node, created, command_id", checkpointID)
}

// OpenCommands gives the open commands of a node, or of every node when it is
// empty, the oldest first.
func (tx *Tx) OpenCommands(node string) ([]Command, error) {
	return tx.commands("open commands of node "+node,
		"state < 10 AND ($1 = '' OR node = $1) ORDER BY created, command_id", node)
}

// ExpiredCommands gives the open commands whose deadline is not after now, the
// oldest first.
func (tx *Tx) ExpiredCommands(now time.Time) ([]Command, error) {
	return tx.commands("expired commands", "state < 10 AND deadline <= $1 ORDER BY created, command_id", nanos(now))
}

func (tx *Tx) commands(what, where string, args ...any) ([]Command, error) {
	var all []Command
	query := `SELECT command_id, idempotency_key, node, run_id, checkpoint_id,
		state, created, deadline, error, body FROM commands WHERE ` + where
	err := tx.each(what, query, args, func(rows *sql.Rows) error {
		var created, deadline int64
		var body []byte
		c := Command{Wire: &agentv1.Command{}}
		err := rows.Scan(&c.ID, &c.IdempotencyKey, &c.Node, &c.RunID, &c.CheckpointID,
			&c.State, &created, &deadline, &c.Error, &body)
		if err != nil {
			return err
		}
		c.Created, c.Deadline = timeOf(created), timeOf(deadline)
		all = append(all, c)
		return tx.unmarshal(what, body, c.Wire)
	})
	return all, err
}
