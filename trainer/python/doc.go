// Package python holds the Python SDK, the package vigil. There is no Go in it
// but the test that runs its tests against a real agent and control plane.
package python
