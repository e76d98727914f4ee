package early

import (
	"io"
	"runtime"
	"slices"
)

// Version and Commit are set by the linker: git describe and git rev-parse of what was built. The build's own notes would be read by
// runtime/debug, which begins late.
var Version, Commit = "unknown", "unknown"

// Client is what tierctl version says of the program alone.
func Client() string {
	return "Client Version:    " + Version + "\nGit commit:        " + Commit + "\nPlatform:          " + runtime.GOOS + "/" + runtime.GOARCH + ", " + runtime.Version() + "\n"
}

// told tells whether it was asked for the version of the program alone, and has said it.
func told(args []string, out io.Writer) bool {
	if len(args) == 0 || !slices.Equal(args[1:], []string{"version", "--client"}) {
		return false
	}
	_, err := io.WriteString(out, Client())
	return err == nil
}
