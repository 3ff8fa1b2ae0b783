// Package envelope keeps the keys that data is encrypted with: they lie on disk
// encrypted with one key more, the key encryption key ([KEK]), and that one
// comes from a file, from the environment, or never leaves a key management
// service ([Source]).
//
// [File] is a set of keys on disk: one that encrypts what is new, and older ones
// that still open what they encrypted. The KEK is replaced at once, since only
// this file is written anew ([File.Rewrap]); the keys of the data are replaced
// lazily, by a new one for what is written from then on ([File.Add]). Whoever
// uses it says what its keys are for by a Tink template. [Keys.SealTo] encrypts a
// stream, such as a backup, with a key of its own that the KEK encrypts.
package envelope
