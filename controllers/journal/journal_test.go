package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func opened(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := Open(path, "test", Make)
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
	if _, err := Open(path, "test", Make); !errors.Is(err, ErrBusy) {
		t.Errorf("opened twice: %v", err)
	}
	if err := errors.Join(j.Begin([]string{"x"}, "first", map[string][]byte{"x": []byte("text")}), j.Save(map[string][]byte{"y": nil}), j.Note("done"), j.Turn("second", nil), j.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, "other", Read); !errors.Is(err, ErrOther) {
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
	j, err = Open(kept[0], "test", Read)
	if err != nil || !j.Has("x") {
		t.Errorf("the run before: %v", err)
	}
	if err := errors.Join(j.Close(), os.Truncate(path, 8192)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, "test", Make); !errors.Is(err, ErrDamaged) {
		t.Errorf("a truncated journal: %v", err)
	}
}

// A file in which any byte is another is not opened, or says what was written: a byte may be one that nobody reads, or the last transaction's head, without
// which the one before it counts.
func TestFlippedBytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	j := opened(t, path)
	copies := map[string][]byte{}
	for i := range 40 {
		copies[fmt.Sprint("copy ", i)] = bytes.Repeat([]byte{byte(i)}, 10*i)
	}
	if err := errors.Join(j.Begin([]string{"x"}, "first", copies), j.Note("done"), j.Close()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	write := func(at int, b byte) {
		t.Helper()
		if _, err := file.WriteAt([]byte{b}, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	refused, last := 0, 0
	for i := range text {
		if text[i] == 0 && i%131 != 0 || text[i] != 0 && i%7 != 0 {
			continue
		}
		write(last, text[last])
		write(i, text[i]^0x41)
		last = i
		j, err := Open(path, "test", Read)
		if errors.Is(err, ErrDamaged) {
			refused++
			continue
		}
		if err != nil {
			t.Fatalf("byte %d: %v", i, err)
		}
		var plan []string
		phase, err := j.Run(&plan)
		if err != nil || phase != "first" && i >= 2*os.Getpagesize() {
			t.Fatalf("byte %d: phase %q, %v", i, phase, err)
		}
		for key, want := range copies {
			if have, err := j.Saved(key); phase != "" && (err != nil || !bytes.Equal(have, want)) {
				t.Fatalf("byte %d: %s: %v", i, key, err)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if t.Logf("%d bytes, %d refused", len(text), refused); refused == 0 {
		t.Error("none is refused")
	}
}

// What is only read is not made, and a file without a byte is no journal.
func TestModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b.db")
	for _, mode := range []Mode{Read, Change} {
		if _, err := Open(path, "test", mode); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("opened: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its folder was made: %v", err)
	}
	j := opened(t, path)
	if err := errors.Join(j.Begin(1, "first", nil), j.Close()); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(path)
	j, err := Open(path, "test", Read)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Note("done"); err == nil {
		t.Error("what is only read was written")
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(path); !after.ModTime().Equal(before.ModTime()) {
		t.Error("the file was written")
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []Mode{Read, Change, Make} {
		if _, err := Open(path, "test", mode); !errors.Is(err, ErrDamaged) {
			t.Errorf("an empty file: %v", err)
		}
	}
}
