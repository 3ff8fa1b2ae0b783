package command

// MakeRoom makes the directory for the traces of a run of a user.
func (p *Profiles) MakeRoom(runID string, user int) (string, error) { return p.makeRoom(runID, &user) }
