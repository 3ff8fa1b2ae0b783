// Package e2e tests the four programs together, as a user runs them: built,
// started as processes, killed. It has no code of its own.
package e2e
