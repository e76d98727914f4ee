// Package systemd has the units that enforce policy from before a machine's network is up.
package systemd

import _ "embed"

// Boot is the text of tierwall-boot.service, for a node of a cluster. It has the state's folder as State has it.
//
//go:embed tierwall-boot.service
var Boot string

// State is the folder that the units name.
const State = "/var/lib/tierwall"
