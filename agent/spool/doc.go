// Package spool keeps telemetry on disk until the control plane has it: a
// bounded log of records, one [Spool] for each class of frame.
//
// # On disk
//
// A spool is a directory with a lock, the file state, and segments. A segment
// is named EPOCH-FIRST.seg after the positions in it (16 hexadecimal digits
// each), is written by one opening of the spool only, and holds records as
// internal/durable frames them. A record's payload is its sequence number
// (uint64, little-endian) and then what was appended: damage in one record does
// not shift the numbers of the others. The file state holds one record: epoch,
// and the epoch and sequence of the acknowledge mark, as uint64, little-endian.
//
// # Positions
//
// Sequences count from 1 in each epoch. The epoch grows at every opening and
// is on stable storage before the first append: it is the Unix time in seconds
// of the opening, or one more than the last epoch where the clock says less.
// So positions still grow after the directory was lost, as it is at each boot
// of a node without disks, and the control plane does not take new frames for
// repeats.
//
// # Durability
//
// With SyncInterval 0, [Spool.Append] returns when the record is on stable
// storage; appends at the same time share one fsync. Otherwise the records of
// the last interval may be lost with the machine (not with the process):
// [Spool.Run] syncs every interval, and a full segment is synced by the append
// that closes it. Readers get a record as soon as it is written, perhaps before
// the fsync has finished: a record may thus be delivered and then lost with the
// machine, never the other way round.
//
// The acknowledge mark is written by Run every thirty seconds and by
// [Spool.Close]. It may lag: then frames are read again, which the receiver knows
// by their positions.
//
// # Bounds and damage
//
// A full spool drops its oldest segment with every frame in it and counts
// those that were not acknowledged. Spools that share a [Budget] are full
// together, and one drops the frames of the spool that yields to it before its
// own; when the disk itself is full, one segment an append. A record that is torn or does not agree
// with its sum is skipped and counted, and reading goes on behind it.
package spool
