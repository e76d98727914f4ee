package main

import (
	"fmt"
	"slices"
	"strings"
)

// foreign are calicoctl's commands for what Tierwall does not do, each with what to do instead. A longer one goes before those that it begins
// with.
var foreign = []struct{ command, instead string }{
	{"ipam", "Tierwall does policy, and leaves pods' addresses to the CNI plugin: use its own tools (calicoctl ipam, where that is Calico's)"},
	{"node run", "Tierwall does policy, and leaves routes to the CNI plugin; on a node, 'tierctl agent' does what policy asks"},
	{"bgp", "Tierwall does policy, and leaves routes to the CNI plugin: use its own tools"},
}

// notOurs says of a command of calicoctl's that there is none here, and why.
func notOurs(words []string) error {
	for _, f := range foreign {
		if path := strings.Fields(f.command); len(words) >= len(path) && slices.Equal(words[:len(path)], path) {
			return usageError{fmt.Errorf("%s: %s", f.command, f.instead)}
		}
	}
	return nil
}
