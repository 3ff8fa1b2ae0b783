package store

import "sync"

// Topic is a sort of record that one can wait for.
type Topic string

// The topics.
const (
	TopicRuns        Topic = "runs"
	TopicCheckpoints Topic = "checkpoints"
	TopicCommands    Topic = "commands"
	TopicTasks       Topic = "tasks"
	TopicIncidents   Topic = "incidents"
	TopicOutbox      Topic = "outbox"
	TopicGroups      Topic = "groups" // when something is due
	TopicSilences    Topic = "silences"
	TopicLeases      Topic = "leases" // also when a replica came or went
	TopicExports     Topic = "exports"
	TopicAudit       Topic = "audit"
	TopicAccess      Topic = "access" // who may come in
	TopicAgreement   Topic = "agreement"
	TopicPeople      Topic = "people" // also the keys of the records
)

// changes wakes those who wait for a topic.
type changes struct {
	mu      sync.Mutex
	waiting map[Topic]chan struct{}
}

// Changed gives a channel that is closed after the next commit that touches
// the topic. To miss nothing: take the channel, read the records, then wait.
func (s *Store) Changed(topic Topic) <-chan struct{} {
	s.changes.mu.Lock()
	defer s.changes.mu.Unlock()
	ch, ok := s.changes.waiting[topic]
	if !ok {
		if s.changes.waiting == nil {
			s.changes.waiting = map[Topic]chan struct{}{}
		}
		ch = make(chan struct{})
		s.changes.waiting[topic] = ch
	}
	return ch
}

// Wake wakes those who wait for topics that another process changed.
func (s *Store) Wake(topics ...Topic) {
	touched := map[Topic]bool{}
	for _, topic := range topics {
		touched[topic] = true
	}
	s.changes.wake(touched)
}

func (c *changes) wake(touched map[Topic]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic := range touched {
		if ch, ok := c.waiting[topic]; ok {
			close(ch)
			delete(c.waiting, topic)
		}
	}
}
