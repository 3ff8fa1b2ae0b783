package scratch

import "golang.org/x/sys/unix"

// populate has all of a file's pages mapped at once.
const populate = unix.MAP_POPULATE
