package api

import "github.com/vigil-ml/vigil/internal/fault"

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// limitOf checks how many things a caller wants and fills in the default.
func limitOf(asked int32) (int, error) {
	switch {
	case asked < 0 || asked > maxLimit:
		return 0, fault.New(fault.Invalid, "limit is %d; want 1 to %d, or 0 for %d", asked, maxLimit, defaultLimit)
	case asked == 0:
		return defaultLimit, nil
	default:
		return int(asked), nil
	}
}

// required refuses an empty id.
func required(field, value, hint string) error {
	if value != "" {
		return nil
	}
	return fault.WithHint(fault.New(fault.Invalid, "%s is empty", field), hint)
}
