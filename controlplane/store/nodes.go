package store

import (
	"fmt"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// PutNode writes a node.
func (tx *Tx) PutNode(node *controlv1.Node) error {
	body, err := marshal(node)
	if err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO nodes (name, body) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET body = excluded.body`, node.GetName(), body)
	if err != nil {
		return fmt.Errorf("put node %s: %w", node.GetName(), err)
	}
	return nil
}

// Node gives a node by its name.
func (tx *Tx) Node(name string) (*controlv1.Node, error) {
	return get[controlv1.Node](tx, "node "+name, "SELECT body FROM nodes WHERE name = $1", name)
}

// Nodes gives every node, by name.
func (tx *Tx) Nodes() ([]*controlv1.Node, error) {
	return list[controlv1.Node](tx, "nodes", "SELECT body FROM nodes ORDER BY name")
}
