package journal

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

func opened(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := Open(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b.db")
	j := opened(t, path)
	var plan []string
	if phase, err := j.Run(&plan); phase != "" || err != nil {
		t.Fatalf("an empty journal is %q, %v", phase, err)
	}
	if _, err := Open(path, "test"); !errors.Is(err, ErrBusy) {
		t.Errorf("opened twice: %v", err)
	}
	if err := errors.Join(j.Begin([]string{"x"}, "first", map[string][]byte{"x": []byte("text")}), j.Save(map[string][]byte{"y": nil}), j.Note("done"), j.Turn("second", nil), j.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, "other"); !errors.Is(err, ErrOther) {
		t.Errorf("another's journal: %v", err)
	}
	j = opened(t, path)
	if phase, err := j.Run(&plan); phase != "second" || err != nil || len(plan) != 1 || plan[0] != "x" {
		t.Errorf("read again: %q %v %v", phase, plan, err)
	}
	if text, err := j.Saved("x"); string(text) != "text" || err != nil {
		t.Errorf("copy %q, %v", text, err)
	}
	if text, err := j.Saved("y"); len(text) > 0 || err != nil {
		t.Errorf("empty copy %q, %v", text, err)
	}
	if _, err := j.Saved("z"); !errors.Is(err, ErrNotSaved) || j.Has("z") || !j.Noted("done") || j.Noted("x") {
		t.Errorf("what is not there: %v", err)
	}
	if err := j.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(savedBucket).Put([]byte("x"), []byte("short")) }); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Saved("x"); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged copy: %v", err)
	}
	done := ""
	works := map[Phase]Work{
		"second": {func(context.Context) error { done += "2"; return nil }, "third"},
		"third":  {func(context.Context) error { done += "3"; return nil }, "last"},
	}
	end := errors.New("ended")
	if err := j.Go(t.Context(), "second", works, func(step string) error { return map[string]error{"turning to last": end}[step] }); !errors.Is(err, end) || done != "23" {
		t.Errorf("ended before the last: %v, done %s", err, done)
	}
	if phase, err := j.Run(&plan); phase != "third" || err != nil {
		t.Errorf("ended before the last, it is %q, %v", phase, err)
	}
	if err := j.Go(t.Context(), "third", works, nil); err != nil || done != "233" {
		t.Errorf("gone on: %v, done %s", err, done)
	}
	if err := j.Begin([]string{}, "first", nil); err != nil || j.Has("x") || j.Noted("done") {
		t.Errorf("the next run has what the one before left: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	kept, err := filepath.Glob(path + ".*Z")
	if err != nil || len(kept) != 1 {
		t.Fatalf("of the run before there is %v, %v", kept, err)
	}
	j, err = Open(kept[0], "test")
	if err != nil || !j.Has("x") {
		t.Errorf("the run before: %v", err)
	}
	if err := errors.Join(j.Close(), os.Truncate(path, 8192)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, "test"); !errors.Is(err, ErrTruncated) {
		t.Errorf("a truncated journal: %v", err)
	}
}
