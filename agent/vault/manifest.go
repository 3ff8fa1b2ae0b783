package vault

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/agent/vault/seal"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Names and numbers of the format; see docs/formats/checkpoint.md.
const (
	manifestFormat   = "vigil-checkpoint"
	manifestVersion  = 2
	manifestName     = "manifest.json"
	verifiedName     = "verified.json"
	filesName        = "files"
	latestName       = "latest"
	maxManifestBytes = 64 << 20
)

var (
	digestForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
	keyIDForm  = regexp.MustCompile(`^[0-9a-f]{0,8}$`)
)

// Manifest describes one rank's part of a checkpoint. It is written after all
// the files that it names are on stable storage.
type Manifest struct {
	Format       string `json:"format"`
	Version      int    `json:"version"`
	RunID        string `json:"run_id"`
	CheckpointID string `json:"checkpoint_id"`
	Attempt      uint32 `json:"attempt"`
	Rank         uint32 `json:"rank"`
	WorldSize    uint32 `json:"world_size"`
	Step         int64  `json:"step"`
	DataPosition int64  `json:"data_position"`
	// ContentFormat is the trainer's word for what the files are.
	ContentFormat string `json:"content_format"`
	// NonfiniteParameters is absent when nobody counted.
	NonfiniteParameters *int64 `json:"nonfinite_parameters,omitempty"`
	// Scan is what the vault found in the files; absent where it knew none of
	// their formats.
	Scan   *Scan  `json:"scan,omitempty"`
	Health string `json:"health"` // healthy, poisoned or unknown
	// Metric is what the best are told by; absent when there is none.
	Metric *float64 `json:"metric,omitempty"`
	// Exact says that training goes on from it as if it had not been interrupted.
	Exact  bool   `json:"exact,omitempty"`
	Reason string `json:"reason"` // periodic, emergency, ...
	// Parent is the checkpoint that the attempt went on from; may be empty.
	Parent string `json:"parent"`
	// Owner is the user whose process wrote it and who alone goes on from it; absent:
	// the agent's own.
	Owner     *int      `json:"owner,omitempty"`
	Created   time.Time `json:"created"`
	SizeBytes int64     `json:"size_bytes"` // of what the trainer wrote; sum over files
	// StoredBytes is what the files take, compressed and encrypted.
	StoredBytes int64 `json:"stored_bytes"`
	// KeyID names the key that all files are encrypted with; empty: in the clear.
	KeyID string `json:"key_id"`
	Files []File `json:"files"` // sorted by name
}

// File is one file of a manifest.
type File struct {
	Name        string `json:"name"` // slash-separated, relative
	SizeBytes   int64  `json:"size_bytes"`
	StoredBytes int64  `json:"stored_bytes"`
	BLAKE3      string `json:"blake3"`                // of what is stored; lower-case hex
	Compression string `json:"compression,omitempty"` // "zstd"
}

// encoded is how a file of the manifest is stored.
func (m *Manifest) encoded(f File) seal.Encoded {
	return seal.Encoded{
		SizeBytes: f.SizeBytes, StoredBytes: f.StoredBytes, BLAKE3: f.BLAKE3, Compression: f.Compression, KeyID: m.KeyID,
	}
}

// plain tells whether all files are stored as the trainer wrote them.
func (m *Manifest) plain() bool {
	return !slices.ContainsFunc(m.Files, func(f File) bool { return !m.encoded(f).Plain() })
}

// binding is what a file is bound to when it is encrypted: one that is put in
// another's place does not open.
func (m *Manifest) binding(name string) string {
	return m.RunID + "/" + m.CheckpointID + "/" + rankName(m.Rank) + "/" + name
}

// encode gives the manifest's bytes; the same manifest gives the same bytes.
func (m *Manifest) encode() ([]byte, error) {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return append(data, '\n'), nil
}

// DecodeManifest reads a manifest and checks every field. Its errors are of
// kind [fault.Corrupt], or [fault.Unsupported] for a version of the future.
func DecodeManifest(data []byte) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fault.New(fault.Corrupt, "decode manifest: %w", err)
	}
	if m.Format != manifestFormat {
		return nil, fault.New(fault.Corrupt, "decode manifest: format is %.40q, want %q", m.Format, manifestFormat)
	}
	if m.Version != manifestVersion {
		return nil, fault.New(fault.Unsupported, "decode manifest: version is %d; this agent reads %d", m.Version, manifestVersion)
	}
	if err := m.check(); err != nil {
		return nil, fault.New(fault.Corrupt, "decode manifest: %w", err)
	}
	return &m, nil
}

func (m *Manifest) check() error {
	if err := CheckRunID(m.RunID); err != nil {
		return err
	}
	if err := CheckCheckpointID(m.CheckpointID); err != nil {
		return err
	}
	switch {
	case m.WorldSize == 0 || m.Rank >= m.WorldSize:
		return fmt.Errorf("rank %d of %d does not exist", m.Rank, m.WorldSize)
	case m.Step < 0 || m.DataPosition < 0:
		return fmt.Errorf("step %d or data position %d is negative", m.Step, m.DataPosition)
	case m.NonfiniteParameters != nil && *m.NonfiniteParameters < 0:
		return fmt.Errorf("%d non-finite parameters", *m.NonfiniteParameters)
	case m.Scan != nil && (m.Scan.Values < 0 || m.Scan.NaN < 0 || m.Scan.Inf < 0 || m.Scan.NaN+m.Scan.Inf > m.Scan.Values):
		return fmt.Errorf("a scan of %d values found %d and %d that are not finite", m.Scan.Values, m.Scan.NaN, m.Scan.Inf)
	case m.Health != healthName(m.health()):
		return fmt.Errorf("health %.40q does not agree with the counts of non-finite values", m.Health)
	case m.Owner != nil && *m.Owner < 0:
		return fmt.Errorf("owner %d is no user", *m.Owner)
	case !keyIDForm.MatchString(m.KeyID):
		return fmt.Errorf("key id %.40q is not up to 8 hexadecimal digits", m.KeyID)
	case len(m.Files) == 0 || len(m.Files) > maxFiles:
		return fmt.Errorf("%d files; want 1 to %d", len(m.Files), maxFiles)
	case !slices.IsSortedFunc(m.Files, func(a, b File) int { return cmp.Compare(a.Name, b.Name) }):
		return fmt.Errorf("files are not sorted by name")
	}
	return m.checkFiles()
}

func (m *Manifest) checkFiles() error {
	var sum, stored int64
	for i, f := range m.Files {
		if err := checkFileName(f.Name); err != nil {
			return err
		}
		if i > 0 && m.Files[i-1].Name == f.Name {
			return fmt.Errorf("file %q stands twice", f.Name)
		}
		if f.SizeBytes < 0 || sum+f.SizeBytes < sum || f.StoredBytes < 0 || stored+f.StoredBytes < stored {
			return fmt.Errorf("file %q has size %d, stored in %d", f.Name, f.SizeBytes, f.StoredBytes)
		}
		if !digestForm.MatchString(f.BLAKE3) {
			return fmt.Errorf("file %q: %.80q is not a BLAKE3 in lower-case hex", f.Name, f.BLAKE3)
		}
		sum += f.SizeBytes
		stored += f.StoredBytes
	}
	if sum != m.SizeBytes || stored != m.StoredBytes {
		return fmt.Errorf("size is %d, stored in %d; its files have %d and %d", m.SizeBytes, m.StoredBytes, sum, stored)
	}
	return nil
}

// readManifest reads a rank directory's manifest and gives its digest too.
func readManifest(rankDir string) (*Manifest, string, error) {
	path := filepath.Join(rankDir, manifestName)
	data, err := readBounded(path, maxManifestBytes)
	if err != nil {
		return nil, "", fmt.Errorf("read manifest: %w", err)
	}
	m, err := DecodeManifest(data)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", path, err)
	}
	return m, digestOf(data), nil
}

// readBounded reads a whole file that must not be large.
func readBounded(path string, maxBytes int64) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxBytes {
		return nil, fault.New(fault.Corrupt, "%s is not a regular file of at most %d bytes", path, maxBytes)
	}
	return os.ReadFile(path)
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// verification is the content of a rank's verified marker. It names the
// manifest that it speaks of, so that it cannot speak of another.
type verification struct {
	ManifestSHA256 string    `json:"manifest_sha256"`
	Verified       time.Time `json:"verified"`
}

// wasVerified tells whether a rank directory's files were read back once and
// agreed with the manifest of the given digest.
func wasVerified(rankDir, manifestSHA256 string) bool {
	data, err := readBounded(filepath.Join(rankDir, verifiedName), 4096)
	if err != nil {
		return false
	}
	var mark verification
	return json.NewDecoder(bytes.NewReader(data)).Decode(&mark) == nil && mark.ManifestSHA256 == manifestSHA256
}

// ref is the manifest as trainers see it, with the files in a directory.
func (m *Manifest) ref(filesDir string) *commonv1.CheckpointRef {
	return &commonv1.CheckpointRef{
		CheckpointId: m.CheckpointID,
		Directory:    filesDir,
		Metadata: &commonv1.CheckpointMetadata{
			Step: m.Step, DataPosition: m.DataPosition, WorldSize: m.WorldSize, Rank: m.Rank,
			NonfiniteParameters: cloneCount(m.NonfiniteParameters), Format: m.ContentFormat,
			Metric: m.Metric, Exact: m.Exact,
		},
		Created: timestamppb.New(m.Created),
		Health:  m.health(),
	}
}

func cloneCount(n *int64) *int64 {
	if n == nil {
		return nil
	}
	return proto.Int64(*n)
}

func healthName(h commonv1.CheckpointHealth) string {
	return shortName(h.String(), "CHECKPOINT_HEALTH_")
}

func reasonName(r commonv1.CheckpointReason) string {
	return shortName(r.String(), "CHECKPOINT_REASON_")
}

func shortName(name, prefix string) string {
	name = strings.ToLower(strings.TrimPrefix(name, prefix))
	if name == "unspecified" {
		return "unknown"
	}
	return name
}
