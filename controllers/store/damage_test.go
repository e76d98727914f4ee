package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// contents are the namespaces of a store with their labels; their names alone are the same.
func contents(s *Bolt) (map[string]string, error) {
	objs, err := s.List(context.Background(), "Namespace", "")
	refs, errNames := s.Names(context.Background(), "Namespace", "")
	if same := slices.EqualFunc(objs, refs, func(o client.Object, ref v3.Ref) bool { return v3.RefOf(o.(v3.Object)) == ref }); !same || (err == nil) != (errNames == nil) {
		return nil, fmt.Errorf("%d objects (%v) have %d names (%v)", len(objs), err, len(refs), errNames)
	}
	out := map[string]string{}
	for _, o := range objs {
		out[o.GetName()] = o.GetLabels()["v"]
	}
	return out, err
}

// damageable is a store with trees of several levels, and what it held before and after its last transaction: bbolt goes back to
// the one before when the newest head is damaged, as it does after a crash.
func damageable(t testing.TB) (text []byte, before, after map[string]string) {
	s := newStore(t)
	_, err := s.Transact(t.Context(), func(tx Writer) error {
		for i := range 300 {
			if _, err := tx.Create(namespace(fmt.Sprintf("n%d", i))); err != nil {
				return err
			}
		}
		return nil
	})
	must(t, err)
	for i := range 20 {
		_, err := s.Put(t.Context(), namespace(fmt.Sprintf("n%d", i*15), "v=x"))
		must(t, err)
	}
	before, err = contents(s)
	must(t, err)
	_, err = s.Put(t.Context(), namespace("n7", "v=last"))
	must(t, err)
	after, err = contents(s)
	must(t, err)
	text, err = os.ReadFile(s.path)
	must(t, err)
	return text, before, after
}

func isDamage(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewerVersion) // a digit of the version may be hit, too
}

var pageSize = os.Getpagesize() // as bbolt chooses it

// pageDamage is what would lead bbolt astray: each does one thing to a page.
var pageDamage = map[string]func(page []byte, id uint64){
	"an element less":        func(p []byte, _ uint64) { p[10]-- },
	"an element more":        func(p []byte, _ uint64) { p[10]++ },
	"another number":         func(p []byte, _ uint64) { p[0]++ },
	"very long":              func(p []byte, _ uint64) { copy(p[12:], "\xff\xff\xff\xff") },
	"one page more":          func(p []byte, _ uint64) { p[12]++ },
	"no branch and no leaf":  func(p []byte, _ uint64) { p[8] = 0 },
	"a child that is itself": func(p []byte, id uint64) { binary.NativeEndian.PutUint64(p[24:], id) },
	"a child far away":       func(p []byte, _ uint64) { copy(p[24:], "\xff\xff\xff\xff") },
	"a key far away":         func(p []byte, _ uint64) { copy(p[16:], "\xff\xff\xff\x7f") },
	"a long key":             func(p []byte, _ uint64) { copy(p[20:], "\xff\xff\xff\xff") },
	"a bucket within":        func(p []byte, _ uint64) { p[16] ^= 1 },
}

// Whatever is wrong with the bytes of a file, the store gives all of a transaction or an error that says so: not one object less,
// not one changed, no panic; and what is damaged is not written to.
func TestDamagedFiles(t *testing.T) {
	good, before, after := damageable(t)
	bad := OpenBolt(filepath.Join(t.TempDir(), "bad.db"))
	refused := 0
	try := func(text []byte) error {
		if err := os.WriteFile(bad.path, text, 0o600); err != nil {
			return err
		}
		have, err := contents(bad)
		switch {
		case err == nil && !maps.Equal(have, after) && !maps.Equal(have, before):
			return fmt.Errorf("%d namespaces were read, and they are not what was written", len(have))
		case err != nil && !isDamage(err):
			return fmt.Errorf("another error: %w", err)
		}
		_, putErr := bad.Put(context.Background(), namespace("new"))
		if putErr == nil {
			return nil // the damage was where nothing is
		}
		refused++
		now, err := os.ReadFile(bad.path)
		if err != nil {
			return err
		}
		if !isDamage(putErr) || !bytes.Equal(now, text) {
			return fmt.Errorf("refused with %w; the file is as it was: %v", putErr, bytes.Equal(now, text))
		}
		return nil
	}
	for n := 1; n < len(good); n += len(good)/40 + 1 {
		if err := try(good[:n]); err != nil {
			t.Errorf("%d bytes of %d: %v", n, len(good), err)
		}
	}
	for name, damage := range pageDamage {
		for at := 2 * pageSize; at < len(good); at += pageSize {
			text := slices.Clone(good)
			damage(text[at:at+pageSize], uint64(at/pageSize))
			if err := try(text); err != nil {
				t.Errorf("page %d, %s: %v", at/pageSize, name, err)
			}
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		text := slices.Clone(good)
		for range rapid.IntRange(1, 8).Draw(rt, "bytes") {
			at := rapid.IntRange(0, len(text)-1).Draw(rt, "at")
			if rapid.Bool().Draw(rt, "beginning of a page") { // there its numbers are
				at = at/pageSize*pageSize + at%64
			}
			text[at] = rapid.Byte().Draw(rt, "byte")
		}
		if err := try(text); err != nil {
			rt.Fatal(err)
		}
	})
	if refused == 0 {
		t.Error("no damage was ever seen")
	}
}

func TestFilesThatAreNoStore(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	_, err := s.Put(ctx, namespace("a"))
	must(t, err)
	edit := func(t *testing.T, f func(*bbolt.Tx) error) {
		db, err := bbolt.Open(s.path, 0o600, nil)
		must(t, err)
		must(t, db.Update(f))
		must(t, db.Close())
	}
	other := filepath.Join(t.TempDir(), "other.db")
	db, err := bbolt.Open(other, 0o600, nil)
	must(t, err)
	must(t, db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err }))
	must(t, db.Close())
	text := filepath.Join(t.TempDir(), "text")
	must(t, os.WriteFile(text, []byte(strings.Repeat("no store\n", 2000)), 0o600))
	for _, row := range []struct {
		path string
		want error
		says string
	}{
		{other, ErrCorrupt, "meta"}, {text, ErrCorrupt, text}, {t.TempDir(), ErrCorrupt, ""},
	} {
		for _, err := range both(ctx, OpenBolt(row.path)) {
			if !errors.Is(err, row.want) || !strings.Contains(err.Error(), row.says) {
				t.Errorf("%s: %v", row.path, err)
			}
		}
	}
	edit(t, func(tx *bbolt.Tx) error {
		return tx.Bucket(metaBucket).Put(versionKey, []byte(strconv.Itoa(layoutVersion+6)))
	})
	for _, err := range both(ctx, s) {
		if !errors.Is(err, ErrNewerVersion) || !strings.Contains(err.Error(), strconv.Itoa(layoutVersion+6)) || !strings.Contains(err.Error(), strconv.Itoa(layoutVersion)) {
			t.Errorf("a newer version: %v", err)
		}
	}
}

// both is what reading a store and writing to it give.
func both(ctx context.Context, s *Bolt) []error {
	_, read := s.List(ctx, "Namespace", "")
	_, wrote := s.Put(ctx, namespace("b"))
	return []error{read, wrote}
}

// A writer makes a file and then locks it: who reads in between sees no store yet.
func TestFileWithoutAByte(t *testing.T) {
	s := OpenBolt(filepath.Join(t.TempDir(), "s.db"))
	must(t, os.WriteFile(s.path, nil, 0o600))
	if _, err := contents(s); !errors.Is(err, ErrNoStore) {
		t.Errorf("have %v", err)
	}
	_, err := s.Put(t.Context(), namespace("a"))
	must(t, err)
}

func TestLockedFile(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	_, err := s.Put(ctx, namespace("a"))
	must(t, err)
	s.wait = 60 * time.Millisecond
	db, err := bbolt.Open(s.path, 0o600, nil)
	must(t, err)
	for _, err := range both(ctx, s) {
		if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), s.path) {
			t.Errorf("have %v", err)
		}
	}
	must(t, db.Close())
	for _, err := range both(ctx, s) {
		must(t, err)
	}
}

// A damaged file is let go again, whatever bbolt did when it met the damage.
func TestDamageLeavesNoLock(t *testing.T) {
	good, _, _ := damageable(t)
	s := OpenBolt(filepath.Join(t.TempDir(), "s.db"))
	s.wait = 60 * time.Millisecond
	bad := slices.Clone(good)
	for at := 2 * pageSize; at < len(bad); at += pageSize {
		copy(bad[at:], bytes.Repeat([]byte{0xff}, 64))
	}
	must(t, os.WriteFile(s.path, bad, 0o600))
	for range 3 {
		for _, err := range both(t.Context(), s) {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("have %v", err)
			}
		}
	}
	must(t, os.WriteFile(s.path, good, 0o600)) // the same file, as locks see it
	for _, err := range both(t.Context(), s) {
		must(t, err)
	}
}

// A copy that is put back counts its revisions on from an older one. What was told must follow, whichever revision it is at.
func TestRestoredCopyIsTold(t *testing.T) {
	for more := range 4 {
		s, ctx := newStore(t), t.Context()
		_, err := s.Put(ctx, namespace("a", "v=1"))
		must(t, err)
		saved, err := os.ReadFile(s.path)
		must(t, err)
		for i := range 2 {
			_, err = s.Put(ctx, namespace("a", fmt.Sprintf("v=later%d", i)))
			must(t, err)
		}
		w, told := watch{store: s, told: map[v3.Ref]string{}}, map[string]string{}
		if follow(t, &w, told) {
			t.Error("the first store is said to be another one")
		}
		must(t, os.WriteFile(s.path, saved, 0o600))
		for i := range more {
			_, err = s.Put(ctx, namespace(fmt.Sprintf("b%d", i), "v=2"))
			must(t, err)
		}
		if !follow(t, &w, told) {
			t.Errorf("after %d more: nobody says that generations begin anew", more)
		}
		want, err := contents(s)
		must(t, err)
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("after %d more: %s", more, diff)
		}
	}
}

// FuzzBolt opens, verifies, reads and writes files of which bytes were changed on purpose: the checksums of bbolt's own heads are made
// to fit again, as somebody would do who means harm. It is all of a transaction, or damage that is said.
func FuzzBolt(f *testing.F) {
	good, before, after := damageable(f)
	f.Add([]byte{0, 0, 0, 0})
	for page := 2; page < len(good)/pageSize; page++ {
		at := page * pageSize
		for _, field := range []int{0, 8, 10, 12, 16, 20, 24} { // of a page's header, and of its first element
			where := at + field
			f.Add([]byte{byte(where >> 16), byte(where >> 8), byte(where), 0xff})
		}
	}
	path := filepath.Join(f.TempDir(), "bad.db")
	f.Fuzz(func(t *testing.T, patches []byte) {
		text := bytes.Clone(good)
		for ; len(patches) >= 4; patches = patches[4:] {
			at := (int(patches[0])<<16 | int(patches[1])<<8 | int(patches[2])) % len(text)
			text[at] = patches[3]
		}
		for head := range 2 {
			seal(text[head*pageSize:])
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		bad := OpenBolt(path)
		have, err := contents(bad)
		if err == nil && !maps.Equal(have, after) && !maps.Equal(have, before) {
			t.Fatalf("%d namespaces were read, and they are not what was written", len(have))
		}
		_, err = bad.Put(context.Background(), namespace("new"))
		if err == nil {
			_, err = contents(bad)
		}
		_ = err
	})
}

// seal a head of bbolt's: FNV-1a of what is before the sum.
func seal(head []byte) {
	const begin, sum = 16, 16 + 56
	h := fnv.New64a()
	h.Write(head[begin:sum])
	binary.NativeEndian.PutUint64(head[sum:], h.Sum64())
}
