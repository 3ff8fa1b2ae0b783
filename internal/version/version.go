// Package version says which build this is.
package version

import "runtime/debug"

// version is set by the linker.
var version string

// String gives the build's version: what the linker was told, else what the
// module cache or the checkout says, else "devel".
func String() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "devel"
	}
	return info.Main.Version
}
