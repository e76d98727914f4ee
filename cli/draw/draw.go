// Package draw makes pictures of who can reach whom: the matrix as a page that a browser opens and as SVG, and the graph of what may pass as SVG,
// DOT and Mermaid. It decides nothing. Equal matrices are equal bytes, and no name that stands in one is ever more than text.
package draw

import (
	"slices"

	"github.com/tierwall/tierwall/dataplane/reach"
)

// verdict of an answer, as the pictures tell them apart.
type verdict int

const (
	nothing verdict = iota
	something
	everything
)

func verdictOf(a *reach.Answer) verdict {
	switch {
	case a.None:
		return nothing
	case a.All:
		return everything
	}
	return something
}

// class of a verdict, in styles. Each has a mark of its own as well, for those who cannot tell the colours.
func (v verdict) class() string { return [...]string{"nothing", "some", "everything"}[v] }

// namespaces of an end's members, each once, sorted.
func namespaces(e *reach.End) []string {
	out := []string{}
	for _, m := range e.Members {
		if m.Namespace != "" {
			out = append(out, m.Namespace)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// members of an end as text: endpoints, or networks.
func members(e *reach.End) []string {
	out := []string{}
	for _, m := range e.Members {
		out = append(out, m.String())
	}
	for _, n := range e.Nets {
		out = append(out, n.String())
	}
	return out
}
