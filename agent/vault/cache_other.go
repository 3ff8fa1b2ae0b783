//go:build !linux

package vault

import "os"

// dropCache does nothing where the kernel takes no such advice.
func dropCache(*os.File) {}
