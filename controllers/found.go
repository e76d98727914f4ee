package controllers

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tierwall/tierwall/dataplane/nft"
	"github.com/tierwall/tierwall/dataplane/policy"
	"github.com/tierwall/tierwall/dataplane/ruleset"
)

// ctMark begins what is found of a bit of the connections' marks: it is 0.
const ctMark = "ct mark & "

// remember in the table what the host had, before it is changed: so whoever takes the table away can put it back, and it is forgotten with
// the table when the host starts anew. What the table remembers already is older, and counts.
func (a *Agent) remember(plan *policy.Plan) error {
	found := map[string]string{}
	note := func(settings ...string) {
		for _, f := range settings {
			if name, _, _ := strings.Cut(f, "="); found[name] == "" {
				found[name] = f
			}
		}
	}
	if !a.taken {
		kept, err := a.found()
		if err != nil {
			return err
		}
		note(kept...)
	}
	note(a.Ruleset.Found...)
	if a.bridged.bridge != "" {
		now, err := nft.Unfiltered(a.procSysNet())
		if err != nil {
			return err
		}
		note(now...)
	}
	if s := plan.Settings[a.Node]; s.Reevaluate {
		note(fmt.Sprintf("%s%#x=0", ctMark, s.Mark))
	}
	if all := slices.Sorted(maps.Values(found)); !slices.Equal(all, a.Ruleset.Found) {
		a.Ruleset.Found, a.compiler, a.taken = all, nil, false
	}
	return nil
}

// found is what the table remembers.
func (a *Agent) found() (out []string, err error) {
	comments, err := a.Kernel.Comments(ruleset.FoundChain)
	for _, c := range comments {
		out = append(out, string(c))
	}
	return out, err
}

// putBack what was found. Nothing reads any more what cannot be.
func (a *Agent) putBack(found []string) error {
	var settings []string
	var errs []error
	for _, f := range found {
		name, _, _ := strings.Cut(f, "=")
		bit, mark := strings.CutPrefix(name, ctMark)
		if !mark {
			settings = append(settings, f)
			continue
		}
		n, err := strconv.ParseUint(bit, 0, 32)
		if err == nil {
			err = unmark(uint32(n))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("putting %s back: %w", f, err))
		}
	}
	return errors.Join(append(errs, nft.PutBack(a.procSysNet(), settings))...)
}

// unmark all connections that have a bit in their mark.
func unmark(bit uint32) error {
	connections, err := nft.Connections()
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range connections {
		if c.Mark&bit != 0 {
			errs = append(errs, nft.Mark(c, bit, 0))
		}
	}
	return errors.Join(errs...)
}

func (a *Agent) procSysNet() string { return cmp.Or(a.ProcSysNet, nft.ProcSysNet) }
