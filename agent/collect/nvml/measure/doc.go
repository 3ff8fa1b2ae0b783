// Package measure reads GPUs through NVML. It runs in the helper process: a
// call may hang for ever, and then the process is all that can be ended.
//
// What is read stands in tables: one entry is one NVML call, the series that
// it feeds and how often it is made. What a GPU or its driver does not have is
// left out and asked for again seldom.
package measure
