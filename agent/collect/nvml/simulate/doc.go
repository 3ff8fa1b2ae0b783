// Package simulate is GPUs that are not there, for whoever has none: NVML with
// plausible values that move, and a script of what goes wrong.
//
// It stands on go-nvml's mock servers, which know each model's names and MIG
// profiles. They keep a record of every call for ever and panic on most of
// them; what is called again and again is therefore answered here.
package simulate
