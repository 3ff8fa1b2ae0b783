package store

import (
	"cmp"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/vigil-ml/vigil/internal/sortid"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// AlertGroup is the alerts of one route that one receiver is told of together.
type AlertGroup struct {
	ID       string
	Route    string // the route's id
	Receiver string
	Labels   map[string]string
	Due      time.Time // when it is looked at next
	Looked   time.Time // when it was last; zero while it was not
	Told     time.Time // when it was last told; zero while it was not
}

// AlertMember is an incident's place in a group, and what was told of it.
type AlertMember struct {
	IncidentID   string
	Told         controlv1.IncidentState // 0 while nothing was
	ToldSeverity commonv1.Severity
}

// AlertGroup gives a group by its id, if there is one.
func (tx *Tx) AlertGroup(id string) (g AlertGroup, found bool, err error) {
	if _, known := tx.cache.groups[id]; !known {
		if err := tx.LookForGroups(id); err != nil {
			return AlertGroup{}, false, err
		}
	}
	g = tx.cache.groups[id]
	return g, g.ID != "", nil
}

// LookForGroups has many groups at hand for [Tx.AlertGroup], which else looks
// for each by itself.
func (tx *Tx) LookForGroups(ids ...string) error {
	for some := range slices.Chunk(ids, asked) {
		where, args := "group_id = $1", []any{some[0]}
		if len(some) > 1 {
			where, args = groupsAsked, manyOf(some)
		}
		found, err := tx.alertGroups(tx.eachWritten, "alert groups", where, args...)
		if err != nil {
			return err
		}
		for _, id := range some {
			if _, known := tx.cache.groups[id]; !known {
				tx.cache.groups[id], tx.cache.newGroups[id] = AlertGroup{}, nil
			}
		}
		for _, g := range found {
			if !tx.waits(groupRows, g.ID) {
				tx.cache.groups[g.ID] = g
				delete(tx.cache.newGroups, g.ID)
			}
		}
	}
	return nil
}

// DueGroups gives at most limit groups that are due, the longest waiting first.
func (tx *Tx) DueGroups(now time.Time, limit int) ([]AlertGroup, error) {
	return tx.alertGroups(tx.each, "due alert groups", "due <= $1 ORDER BY due LIMIT $2", nanos(now), limit)
}

// AlertGroups gives every group, for a look at all of them.
func (tx *Tx) AlertGroups() ([]AlertGroup, error) {
	return tx.alertGroups(tx.each, "alert groups", "1 = 1 ORDER BY receiver, group_id")
}

// GroupsOf gives the groups that an incident is part of.
func (tx *Tx) GroupsOf(incidentID string) ([]AlertGroup, error) {
	if _, opened := tx.cache.opened[incidentID]; opened && !tx.cache.joined[incidentID] {
		return nil, nil
	}
	return tx.alertGroups(tx.each, "alert groups of incident "+incidentID,
		"place IN (SELECT place FROM alert_members WHERE incident_id = $1) ORDER BY group_id", incidentID)
}

type each func(what, query string, args []any, scan func(*sql.Rows) error) error

func (tx *Tx) alertGroups(each each, what, where string, args ...any) ([]AlertGroup, error) {
	var all []AlertGroup
	err := each(what, "SELECT group_id, place, route, receiver, labels, due, looked, told FROM alert_groups WHERE "+where, args,
		func(rows *sql.Rows) error {
			var g AlertGroup
			var place, labels string
			var due, looked, told int64
			if err := rows.Scan(&g.ID, &place, &g.Route, &g.Receiver, &labels, &due, &looked, &told); err != nil {
				return err
			}
			g.Due, g.Looked, g.Told = timeOf(due), timeOf(looked), timeOf(told)
			tx.cache.places[g.ID] = place
			all = append(all, g)
			return json.Unmarshal([]byte(labels), &all[len(all)-1].Labels)
		})
	return all, err
}

// PutAlertGroup writes a group.
func (tx *Tx) PutAlertGroup(g AlertGroup) error {
	labels, err := json.Marshal(g.Labels)
	if err != nil {
		return err
	}
	place, err := tx.placeOf(g.ID)
	if err != nil {
		return err
	}
	tx.touch(TopicGroups)
	tx.cache.groups[g.ID] = g
	tx.later(groupRows, g.ID, g.ID, place, g.Route, g.Receiver, string(labels), nanos(g.Due), nanos(g.Looked), nanos(g.Told))
	return nil
}

// placeOf gives what a group's members name it by; one that there is not yet gets
// a fresh one, which sorts behind all others.
func (tx *Tx) placeOf(groupID string) (place string, err error) {
	if _, known := tx.cache.groups[groupID]; !known && tx.cache.places[groupID] == "" {
		if err := tx.LookForGroups(groupID); err != nil {
			return "", err
		}
	}
	if place = tx.cache.places[groupID]; place == "" {
		if place, err = sortid.New(); err != nil {
			return "", fmt.Errorf("place of alert group %s: %w", groupID, err)
		}
		tx.cache.places[groupID] = place
	}
	return place, nil
}

// DeleteAlertGroup forgets a group and what was told of its members.
func (tx *Tx) DeleteAlertGroup(id string) error {
	err := tx.execMembers(id, "DELETE FROM alert_members WHERE place = $1")
	if err == nil {
		_, err = tx.exec("DELETE FROM alert_groups WHERE group_id = $1", id)
	}
	if err != nil {
		return fmt.Errorf("delete alert group %s: %w", id, err)
	}
	tx.cache.groups[id] = AlertGroup{}
	delete(tx.cache.places, id)
	return nil
}

// execMembers changes members of a group, whose place is the query's first
// argument.
func (tx *Tx) execMembers(groupID, query string, args ...any) error {
	place, err := tx.placeOf(groupID)
	if err == nil {
		delete(tx.cache.newGroups, groupID)
		_, err = tx.exec(query, append([]any{place}, args...)...)
	}
	return err
}

// AlertMembers gives the members of a group.
func (tx *Tx) AlertMembers(groupID string) ([]AlertMember, error) {
	if members, isNew := tx.cache.newGroups[groupID]; isNew {
		return slices.SortedFunc(slices.Values(members), func(a, b AlertMember) int { return cmp.Compare(a.IncidentID, b.IncidentID) }), nil
	}
	place, err := tx.placeOf(groupID)
	if err != nil {
		return nil, err
	}
	var all []AlertMember
	err = tx.each("members of alert group "+groupID,
		"SELECT incident_id, told, told_severity FROM alert_members WHERE place = $1 ORDER BY incident_id", []any{place},
		func(rows *sql.Rows) error {
			var m AlertMember
			err := rows.Scan(&m.IncidentID, &m.Told, &m.ToldSeverity)
			all = append(all, m)
			return err
		})
	return all, err
}

// AlertMember gives one member of a group. It fails with [fault.NotFound] when the
// incident is none.
func (tx *Tx) AlertMember(groupID, incidentID string) (AlertMember, error) {
	m := AlertMember{IncidentID: incidentID}
	for _, of := range tx.cache.newGroups[groupID] {
		if of.IncidentID == incidentID {
			return of, nil
		}
	}
	place, err := tx.placeOf(groupID)
	if err != nil {
		return m, err
	}
	err = tx.one("member "+incidentID+" of alert group "+groupID,
		"SELECT told, told_severity FROM alert_members WHERE incident_id = $1 AND place = $2", []any{incidentID, place}, &m.Told, &m.ToldSeverity)
	return m, err
}

// JoinGroup makes an incident a member of a group; false when it is one.
func (tx *Tx) JoinGroup(groupID, incidentID string) (joined bool, err error) {
	place, err := tx.placeOf(groupID)
	if err != nil {
		return false, err
	}
	pair := [2]string{groupID, incidentID}
	if _, opened := tx.cache.opened[incidentID]; opened && !tx.cache.members[pair] {
		tx.cache.members[pair], tx.cache.joined[incidentID] = true, true
		tx.later(memberRows, groupID+"/"+incidentID, place, incidentID, 0, 0)
		if members, isNew := tx.cache.newGroups[groupID]; isNew {
			tx.cache.newGroups[groupID] = append(members, AlertMember{IncidentID: incidentID})
		}
		return true, nil
	}
	delete(tx.cache.newGroups, groupID)
	rows, err := tx.exec(memberRows.statement(1, tx.traits.unnamed), place, incidentID, 0, 0)
	if err != nil {
		return false, fmt.Errorf("join alert group %s: %w", groupID, err)
	}
	tx.cache.joined[incidentID] = true
	return rows > 0, nil
}

// PutAlertMember notes what was told of a member.
func (tx *Tx) PutAlertMember(groupID string, m AlertMember) error {
	for n, of := range tx.cache.newGroups[groupID] {
		if of.IncidentID == m.IncidentID {
			tx.cache.newGroups[groupID][n] = m
		}
	}
	if tx.change(memberRows, groupID+"/"+m.IncidentID, func(row []any) { row[2], row[3] = m.Told, m.ToldSeverity }) {
		return nil
	}
	place, err := tx.placeOf(groupID)
	if err == nil {
		_, err = tx.exec("UPDATE alert_members SET told = $1, told_severity = $2 WHERE place = $3 AND incident_id = $4",
			m.Told, m.ToldSeverity, place, m.IncidentID)
	}
	if err != nil {
		return fmt.Errorf("put member of alert group %s: %w", groupID, err)
	}
	return nil
}

// MemberCount is how many members a group has.
type MemberCount struct {
	Open               int64 // those that are not resolved
	Untold, UntoldOpen int64 // those of which nothing was told, and of these those that are not resolved
}

// CountMembers counts the members of a group.
func (tx *Tx) CountMembers(groupID string) (c MemberCount, err error) {
	place, err := tx.placeOf(groupID)
	if err != nil {
		return c, err
	}
	err = tx.one("members of alert group "+groupID, `SELECT
		COALESCE(SUM(CASE WHEN i.resolved = 0 THEN 1 ELSE 0 END), 0), COALESCE(SUM(CASE WHEN m.told = 0 THEN 1 ELSE 0 END), 0),
		COALESCE(SUM(CASE WHEN m.told = 0 AND i.resolved = 0 THEN 1 ELSE 0 END), 0)
		FROM alert_members m JOIN incidents i ON i.incident_id = m.incident_id WHERE m.place = $1`,
		[]any{place}, &c.Open, &c.Untold, &c.UntoldOpen)
	return c, err
}

// UntoldMembers gives the ids of at most limit members of which nothing was
// told, the oldest first.
func (tx *Tx) UntoldMembers(groupID string, limit int) ([]string, error) {
	place, err := tx.placeOf(groupID)
	if err != nil {
		return nil, err
	}
	var all []string
	err = tx.each("untold members of alert group "+groupID, `SELECT m.incident_id FROM alert_members m
		JOIN incidents i ON i.incident_id = m.incident_id WHERE m.place = $1 AND m.told = 0
		ORDER BY i.opened, m.incident_id LIMIT $2`, []any{place, limit}, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		all = append(all, id)
		return err
	})
	return all, err
}

// TellMembers notes that all members of a group have been told of, and has
// those leave that are resolved.
func (tx *Tx) TellMembers(groupID string) error {
	err := tx.execMembers(groupID, "UPDATE alert_members SET told = $2 WHERE place = $1 AND told = 0", controlv1.IncidentState_INCIDENT_STATE_FIRING)
	if err == nil {
		err = tx.execMembers(groupID, `DELETE FROM alert_members WHERE place = $1 AND incident_id IN
			(SELECT incident_id FROM incidents WHERE resolved <> 0)`)
	}
	if err != nil {
		return fmt.Errorf("note what was told of alert group %s: %w", groupID, err)
	}
	return nil
}

// LeaveGroup ends a membership.
func (tx *Tx) LeaveGroup(groupID, incidentID string) error {
	if err := tx.execMembers(groupID, "DELETE FROM alert_members WHERE place = $1 AND incident_id = $2", incidentID); err != nil {
		return fmt.Errorf("leave alert group %s: %w", groupID, err)
	}
	return nil
}

// PutInhibitor notes that a firing incident inhibits, by a rule, what has the
// same labels.
func (tx *Tx) PutInhibitor(rule, equal, incidentID string) error {
	_, err := tx.exec("INSERT INTO inhibitors (rule, equal, incident_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
		rule, equal, incidentID)
	if err != nil {
		return fmt.Errorf("put inhibitor %s: %w", incidentID, err)
	}
	return nil
}

// DeleteInhibitor ends what an incident inhibits; empty means every one's.
func (tx *Tx) DeleteInhibitor(incidentID string) error {
	_, err := tx.exec("DELETE FROM inhibitors WHERE incident_id = $1 OR $1 = ''", incidentID)
	if err != nil {
		return fmt.Errorf("delete inhibitor %s: %w", incidentID, err)
	}
	return nil
}

// Inhibitors gives the ids of at most limit incidents that inhibit, by a rule,
// what has the same labels.
func (tx *Tx) Inhibitors(rule, equal string, limit int) ([]string, error) {
	var all []string
	err := tx.each("inhibitors", "SELECT incident_id FROM inhibitors WHERE rule = $1 AND equal = $2 ORDER BY incident_id LIMIT $3",
		[]any{rule, equal, limit}, func(rows *sql.Rows) error {
			var id string
			err := rows.Scan(&id)
			all = append(all, id)
			return err
		})
	return all, err
}

// NextDue gives when the next group, timer or expiry is due; zero when nothing
// is.
func (tx *Tx) NextDue() (next time.Time, err error) {
	var due [3]int64
	// Each from the beginning of its index; for MIN over all of them the engine
	// reads every row.
	err = tx.one("next due", `SELECT COALESCE((SELECT due FROM alert_groups ORDER BY due LIMIT 1), 0),
		COALESCE((SELECT due FROM timers ORDER BY due LIMIT 1), 0),
		COALESCE((SELECT expires FROM incidents WHERE expires > 0 AND resolved = 0 ORDER BY expires LIMIT 1), 0)`,
		nil, &due[0], &due[1], &due[2])
	for _, nanos := range due {
		if at := timeOf(nanos); nanos != 0 && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next, err
}
