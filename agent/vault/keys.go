package vault

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/vigil-ml/vigil/internal/fault"
)

// RotateKeys encrypts the vault's keyring with the outer key that is configured
// now, adds a key for what is saved from then on where fresh is set, brings the
// second store's keyring up to date, and says what came of it. Nothing that was
// saved is written anew, and nothing is half done; done again it does what is left.
// The progress is of looking whether each rank of a checkpoint has its key in the
// keyring. It fails with [fault.Precondition] where nothing is encrypted.
func (v *Vault) RotateKeys(ctx context.Context, fresh bool, progress func(done, total int64)) (string, error) {
	keys := v.codec.Keys
	if keys == nil {
		return "", fault.New(fault.Precondition, "the vault %s is not encrypted: set vault.encryption", v.config.Dir)
	}
	before := keys.KEK()
	changed, err := keys.Rewrap(ctx)
	if err != nil {
		return "", err
	}
	detail := fmt.Sprintf("the keyring was encrypted with key %s already", before)
	if changed {
		detail = fmt.Sprintf("the keyring is encrypted with key %s; before, with %s", keys.KEK(), before)
	}
	if fresh {
		if err := keys.Rotate(ctx); err != nil {
			return "", fmt.Errorf("%s; %w", detail, err)
		}
		detail += fmt.Sprintf("; what is saved from now on has key %s", keys.ID())
	}
	if v.deps.Replica != nil {
		if err := v.shareKeyring(ctx); err != nil {
			return "", fmt.Errorf("%s; bring the second store's keyring up to date: %w", detail, err)
		}
		detail += "; so has the second store"
	}
	covered, lost, err := v.covered(ctx, progress)
	if err != nil {
		return "", fmt.Errorf("%s; look through the checkpoints: %w", detail, err)
	}
	if len(lost) > 0 {
		return "", fault.New(fault.Corrupt, "%s; checkpoints whose key the keyring lacks: %v", detail, lost[:min(len(lost), 20)])
	}
	return fmt.Sprintf("%s; %d encrypted ranks of checkpoints open with it", detail, covered), nil
}

// covered looks through the vault: how many encrypted ranks there are whose key the
// keyring has, and those whose key it lacks.
func (v *Vault) covered(ctx context.Context, progress func(done, total int64)) (covered int, lost []string, err error) {
	paths, err := filepath.Glob(filepath.Join(v.config.Dir, "*", "*", "rank-*", manifestName))
	if err != nil {
		return 0, nil, err
	}
	slices.Sort(paths)
	for i, path := range paths {
		if err := ctx.Err(); err != nil {
			return 0, nil, err
		}
		m, _, err := readManifest(filepath.Dir(path))
		progress(int64(i+1), int64(len(paths)))
		switch {
		case err != nil && os.IsNotExist(err), err != nil && fault.Is(err, fault.Corrupt): // removed, or damaged, which has its own words
		case err != nil:
			return 0, nil, err
		case m.KeyID == "":
		case v.codec.Keys.Has(m.KeyID):
			covered++
		default:
			lost = append(lost, m.CheckpointID)
		}
	}
	return covered, lost, nil
}
