package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/client-go/util/jsonpath"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store"
)

func waitCommand() *cli.Command {
	return &cli.Command{
		Name: "wait", Usage: "wait until objects are as they should be",
		UsageText: "tierctl wait KIND NAME... --for=condition=CONDITION[=STATUS]\n   tierctl wait -f FILE --for=condition=CONDITION[=STATUS]|create|delete|jsonpath='{PATH}'[=VALUE]",
		Description: "A condition counts when it speaks of the object as it is now: of its generation. An object that does not exist is an error, unless its\n" +
			"creation or deletion is waited for. Exit status 5: not in time.",
		Flags: slices.Concat(fileFlags(), []cli.Flag{
			&cli.StringFlag{Name: "for", Usage: "`WHAT` to wait for: condition=CONDITION[=STATUS] (True), create, delete, jsonpath='{PATH}'[=VALUE]"},
			&cli.DurationFlag{Name: "timeout", Usage: "`DURATION` to wait; 0 looks once", Value: 30 * time.Second},
			datastoreFlag(),
		}),
		Action: waitFor,
	}
}

// goal is what is waited for: whether an object, nil when there is none, is as it should be, and in words how it is.
type goal struct {
	words string
	is    func(o client.Object) (met bool, state string, err error)
	must  bool // exist
}

func waitFor(c *cli.Context) error {
	g, err := goalOf(c.String("for"))
	if err != nil {
		return err
	}
	refs, err := awaited(c)
	if err != nil {
		return err
	}
	s, err := openStore(c)
	if err != nil {
		return err
	}
	if k, ok := s.(*store.Kube); ok {
		if s, err = followingThose(k, refs, g); err != nil {
			return err
		}
	}
	return waitOn(c, existing(s), refs, g)
}

// followingThose is a cluster's store that tells of the kinds of refs alone.
func followingThose(k *store.Kube, refs []v3.Ref, g goal) (store.Store, error) {
	for _, ref := range refs {
		kind, err := store.Lookup(ref.Kind)
		if err != nil {
			return nil, err
		}
		if kind.Stripped() && g.must {
			return nil, usagef("of a cluster's %s only what policy asks is followed: kubectl wait has the rest", kind.Plural)
		}
	}
	return k.Following(func(k *store.Kind) bool {
		return slices.ContainsFunc(refs, func(r v3.Ref) bool { return r.Kind == k.Kind })
	}), nil
}

// awaited are the objects that the command line or its files name.
func awaited(c *cli.Context) (refs []v3.Ref, err error) {
	if len(c.StringSlice("filename")) == 0 {
		if c.NArg() < 2 {
			return nil, usagef("wait needs KIND and at least one NAME, or -f FILE")
		}
		return namedRefs(c)
	}
	if err := noArguments(c); err != nil {
		return nil, err
	}
	docs, err := readValid(c)
	if err != nil {
		return nil, err
	}
	for _, d := range docs {
		refs = append(refs, refOf(d))
	}
	if len(refs) == 0 {
		return nil, noObjects(c)
	}
	return refs, nil
}

// waitOn follows the store until all is as it should be, each object at some moment.
func waitOn(c *cli.Context, s store.Store, refs []v3.Ref, g goal) error {
	ctx, stop := context.WithCancel(c.Context)
	defer stop()
	if most := c.Duration("timeout"); most > 0 {
		ctx, stop = context.WithTimeout(ctx, most)
		defer stop()
	}
	objects, met := map[v3.Ref]client.Object{}, map[v3.Ref]bool{}
	synced := false
	var trouble error // of which the watch recovers, or not
	for event, err := range s.Watch(ctx) {
		switch {
		case errors.Is(err, store.ErrUnfollowed), err != nil && ctx.Err() != nil:
			continue
		case err != nil && !synced:
			return err
		case err != nil:
			trouble = err
			continue
		case event.Type == store.Synced:
			synced = true
		case !slices.Contains(refs, event.Ref):
			continue
		case event.Type == store.Put && event.Corrupt != nil:
			return fmt.Errorf("%s %w: %w", event.Ref, store.ErrCorruptObject, event.Corrupt)
		case event.Type == store.Put:
			objects[event.Ref] = event.Object
		case event.Type == store.Deleted:
			delete(objects, event.Ref)
		}
		if !synced {
			continue
		}
		if done, err := look(c, refs, objects, met, g); done || err != nil {
			return err
		}
		if c.Duration("timeout") == 0 {
			break
		}
	}
	if c.Context.Err() != nil {
		return c.Context.Err()
	}
	err := late(refs, objects, met, synced, g)
	if trouble != nil {
		err = statusError{fmt.Errorf("%w; %w", err, trouble), exitTimeout}
	}
	return err
}

// look says of each object once that it is as it should be, and tells whether all are.
func look(c *cli.Context, refs []v3.Ref, objects map[v3.Ref]client.Object, met map[v3.Ref]bool, g goal) (all bool, err error) {
	all = true
	for _, ref := range refs {
		if met[ref] {
			continue
		}
		if objects[ref] == nil && g.must {
			return false, inCalicoWords(fmt.Errorf("%s %w", ref, store.ErrNotFound))
		}
		is, _, err := g.is(objects[ref])
		if err != nil {
			return false, fmt.Errorf("%s: %w", ref, err)
		}
		if met[ref] = is; is {
			fmt.Fprintf(c.App.Writer, "%s %s\n", ref, g.words)
		}
		all = all && is
	}
	return all, nil
}

// late says how those are that are not as they should be.
func late(refs []v3.Ref, objects map[v3.Ref]client.Object, met map[v3.Ref]bool, synced bool, g goal) error {
	if !synced {
		return statusError{errors.New("timed out before the store had said what there is"), exitTimeout}
	}
	var states []string
	for _, ref := range refs {
		if !met[ref] {
			_, state, _ := g.is(objects[ref]) // what it says cannot be judged is in the state
			states = append(states, fmt.Sprintf("%s: %s", ref, state))
		}
	}
	return statusError{fmt.Errorf("timed out waiting for %d of %d objects: %s", len(states), len(refs), strings.Join(states, "; ")), exitTimeout}
}

// goalOf reads --for.
func goalOf(text string) (goal, error) {
	what, rest, _ := strings.Cut(text, "=")
	switch what = strings.ToLower(what); {
	case what == "delete" && rest == "":
		return goal{words: "deleted", is: func(o client.Object) (bool, string, error) { return o == nil, "it is there", nil }}, nil
	case what == "create" && rest == "":
		return goal{words: "created", is: func(o client.Object) (bool, string, error) { return o != nil, "it does not exist", nil }}, nil
	case what == "condition" && rest != "":
		name, status, ok := strings.Cut(rest, "=")
		if !ok {
			status = "True"
		}
		return goal{words: "condition met", must: true, is: func(o client.Object) (bool, string, error) { return conditionIs(o, name, status) }}, nil
	case what == "jsonpath" && rest != "":
		return pathGoal(rest)
	}
	return goal{}, usagef("wait needs --for=condition=CONDITION[=STATUS], create, delete or jsonpath='{PATH}'[=VALUE], not %q", text)
}

// conditionIs tells whether a condition has a status, and speaks of the object's generation of now.
func conditionIs(o client.Object, name, status string) (bool, string, error) {
	m, err := (&getView{}).untyped(o)
	if err != nil {
		return false, "", err
	}
	statusOf, _ := m["status"].(map[string]any)
	conditions, _ := statusOf["conditions"].([]any)
	for _, c := range conditions {
		c, _ := c.(map[string]any)
		if typ, _ := c["type"].(string); !strings.EqualFold(typ, name) {
			continue
		}
		state := fmt.Sprintf("%v is %v", c["type"], c["status"])
		if reason, ok := c["reason"]; ok {
			state += fmt.Sprintf(" (%v)", reason)
		}
		if message, _ := c["message"].(string); message != "" {
			state += ": " + message
		}
		if of, ok := c["observedGeneration"].(float64); ok && int64(of) != o.GetGeneration() {
			return false, fmt.Sprintf("%s, of generation %d; the object is of generation %d", state, int64(of), o.GetGeneration()), nil
		}
		return strings.EqualFold(fmt.Sprint(c["status"]), status), state, nil
	}
	return false, "it has no condition " + name, nil
}

// pathGoal reads {PATH}=VALUE, or {PATH} for any value.
func pathGoal(text string) (goal, error) {
	end := strings.LastIndex(text, "}")
	path, value, valued := text[:end+1], "", false
	if end < 0 { // kubectl takes a path without braces
		path, value, valued = strings.Cut(text, "=")
		path = "{." + strings.TrimPrefix(path, ".") + "}"
	} else if rest := text[end+1:]; rest != "" {
		if value, valued = strings.CutPrefix(rest, "="); !valued {
			return goal{}, usagef("--for=jsonpath: expected '{PATH}'=VALUE, not %q", text)
		}
	}
	p := jsonpath.New("for").AllowMissingKeys(true)
	if err := p.Parse(path); err != nil {
		return goal{}, usagef("--for=jsonpath: %v", err)
	}
	return goal{words: "condition met", must: true, is: func(o client.Object) (bool, string, error) {
		m, err := (&getView{}).untyped(o)
		if err != nil {
			return false, "", err
		}
		have := pathText(p, m)
		return valued && have == value || !valued && have != "<none>", fmt.Sprintf("%s is %s", path, have), nil
	}}, nil
}
