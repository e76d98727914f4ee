package controllers

import (
	"strings"
	"testing"

	"github.com/tierwall/tierwall/apis/v1alpha1"
	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/policy"
)

// What a report says of an object is as long as its schema lets it be: one object does not keep a node from reporting.
func TestNotesAreCut(t *testing.T) {
	a := Agent{}
	plan := &policy.Plan{Notes: []policy.Note{{About: v3.Ref{Kind: "GlobalNetworkSet", Name: "large"}, Text: strings.Repeat("é", 1<<20)}}}
	s := a.status(plan, nil)
	if n := len(s.Notes[0].Message); n > v1alpha1.MaxMessage || n < v1alpha1.MaxMessage-8 || !strings.HasSuffix(s.Notes[0].Message, "…") {
		t.Errorf("the message has %d bytes", n)
	}
}
