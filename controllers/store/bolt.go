package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/controllers/store/key"
	"github.com/tierwall/tierwall/controllers/store/pages"
)

// Bolt is a Store in one bbolt file. No process holds the file open for longer than one transaction, so that the command line
// and the agent can share it. A file has three buckets:
//
//	meta     version: of this layout; head: of the last transaction, its revision, state and sum, sealed
//	objects  kind NUL namespace NUL name → the object as JSON, sealed
//	journal  revision and a number → the state after it and the key of an object that changed then, sealed; maxJournal of them
//
// A state is random and another after each transaction. A value's seal is a digest of it and its key, and the sum is of all
// seals, for bbolt has no checksum for what it keeps. Each opening verifies the whole file: a rule that a damaged disk has
// changed or dropped must not be enforced, and files of hosts are small.
type Bolt struct {
	path string
	wait time.Duration // for another process to let the file go

	existing bool // do not make the file
	heeding
}

const (
	layoutVersion = 1
	maxJournal    = 10000
)

var (
	metaBucket    = []byte("meta")
	objectsBucket = []byte(key.Objects)
	journalBucket = []byte("journal")
	versionKey    = []byte("version")
	headKey       = []byte("head")
)

// OpenBolt names a file. It is opened by each operation, and created by the first that writes.
func OpenBolt(path string) *Bolt { return &Bolt{path: path, wait: 5 * time.Second} }

// Existing is the same file for one who must not make a new one where it has gone: an empty store says that nothing is to be enforced.
func (b *Bolt) Existing() *Bolt {
	out := *b
	out.existing = true
	return &out
}

// Get implements Store.
func (b *Bolt) Get(ctx context.Context, ref v3.Ref) (obj client.Object, err error) {
	err = b.view(ctx, func(tx *Tx) error {
		obj, err = tx.Get(ref)
		return err
	})
	return obj, err
}

// List implements Store.
func (b *Bolt) List(ctx context.Context, kind, namespace string) (objs []client.Object, err error) {
	err = b.view(ctx, func(tx *Tx) error {
		objs, err = tx.List(kind, namespace)
		return err
	})
	return objs, err
}

// Names are those of the objects that List gives, of which none is decoded: that is what a long list costs most.
func (b *Bolt) Names(ctx context.Context, kind, namespace string) (refs []v3.Ref, err error) {
	err = b.view(ctx, func(tx *Tx) error {
		return tx.each(kind, namespace, func(ref v3.Ref, _ []byte) { refs = append(refs, ref) })
	})
	return refs, err
}

// Put implements Store.
func (b *Bolt) Put(ctx context.Context, obj client.Object) (out client.Object, err error) {
	_, err = b.Transact(ctx, func(tx Writer) error {
		if _, err = tx.Get(v3.RefOf(obj.(v3.Object))); errors.Is(err, ErrNotFound) && obj.GetResourceVersion() == "" {
			out, err = tx.Create(obj)
		} else {
			out, err = tx.Update(obj)
		}
		return err
	})
	return out, err
}

// PutStatus implements Store, in one transaction.
func (b *Bolt) PutStatus(ctx context.Context, objs ...client.Object) error {
	var refused []error
	_, err := b.transact(ctx, func(tx *Tx) error {
		for _, o := range objs {
			_, err := tx.UpdateStatus(o)
			if err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound) {
				return err
			}
			refused = append(refused, err)
		}
		return nil
	})
	return errors.Join(err, errors.Join(refused...))
}

// Delete implements Store.
func (b *Bolt) Delete(ctx context.Context, obj client.Object) error {
	ref := v3.RefOf(obj.(v3.Object))
	_, err := b.Transact(ctx, func(tx Writer) error {
		if rv := obj.GetResourceVersion(); rv != "" {
			old, err := tx.Get(ref)
			if err != nil {
				return err
			}
			if old.GetResourceVersion() != rv {
				return fmt.Errorf("%s %w", ref, ErrConflict)
			}
		}
		return tx.Delete(ref)
	})
	return err
}

// Transact implements Store.
func (b *Bolt) Transact(ctx context.Context, f func(Writer) error) (revision string, err error) {
	return b.transact(ctx, func(tx *Tx) error {
		if err := b.heed(b, tx); err != nil {
			return err
		}
		return f(tx)
	})
}

func (b *Bolt) transact(ctx context.Context, f func(*Tx) error) (revision string, err error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := b.view(ctx, func(*Tx) error { return nil }); err != nil && (b.existing || !errors.Is(err, ErrNoStore)) {
		return "", err
	}
	if err := b.makeFolder(); err != nil {
		return "", err
	}
	err = b.open(false, func(db *bbolt.DB, _ *os.File) error {
		return db.Update(func(raw *bbolt.Tx) error {
			tx, err := begin(raw)
			if err != nil {
				return err
			}
			if err := f(tx); err != nil {
				return err
			}
			revision = strconv.FormatUint(tx.revision, 10)
			return tx.end()
		})
	})
	return revision, err
}

func (b *Bolt) makeFolder() error {
	if b.existing {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(b.path), 0o700); err != nil {
		return fmt.Errorf("creating the datastore's directory: %w", err)
	}
	return nil
}

func (b *Bolt) view(ctx context.Context, f func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// a file without a byte is one that its first writer has just made, and not yet locked
	if info, err := os.Stat(b.path); errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		return fmt.Errorf("datastore %s: %w", b.path, ErrNoStore)
	}
	return b.open(true, func(db *bbolt.DB, file *os.File) error {
		return db.View(func(raw *bbolt.Tx) error {
			if err := pages.Check(file, raw); errors.Is(err, pages.ErrDamaged) {
				return fmt.Errorf("datastore %s: %w: %w", b.path, ErrCorrupt, err)
			} else if err != nil {
				return fmt.Errorf("datastore %s: %w", b.path, err)
			}
			tx, err := begin(raw)
			if err != nil {
				return err
			}
			if err := tx.verify(); err != nil {
				return fmt.Errorf("datastore %s: %w", b.path, err)
			}
			return f(tx)
		})
	})
}

// open opens the file for as long as f runs. bbolt answers a damaged page with a panic, and a truncated file with a fault in
// the memory that is mapped to it: both are caught here and nowhere else, and become ErrCorrupt. The list of free pages is not
// kept in the file but found anew: a damaged one would have bbolt write over pages that are in use.
func (b *Bolt) open(readOnly bool, f func(*bbolt.DB, *os.File) error) (err error) {
	var file *os.File
	defer func(old bool) {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			file.Close() // bbolt does not, when it is Open that panics; the lock goes with it
			err = fmt.Errorf("datastore %s: %w (%v)", b.path, ErrCorrupt, p)
		}
	}(debug.SetPanicOnFault(true))
	db, err := bbolt.Open(b.path, 0o600, &bbolt.Options{Timeout: b.wait, ReadOnly: readOnly, NoFreelistSync: true, MmapFlags: atOnce(readOnly),
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			if b.existing {
				flag &^= os.O_CREATE
			}
			if file, err = os.OpenFile(name, flag, mode); err != nil {
				return nil, err
			}
			return file, lock(file, readOnly, b.wait)
		}})
	if err != nil {
		return b.openError(err)
	}
	defer db.Close()
	return f(db, file)
}

// atOnce has a file that is read mapped as a whole in one call, for all of it will be looked at: page by page it takes many times as long.
func atOnce(readOnly bool) int {
	if readOnly {
		return syscall.MAP_POPULATE
	}
	return 0
}

// lock waits for other processes to let the file go; bbolt then finds that it has the lock. bbolt itself looks but every 50 ms, and
// who is told of a change looks while it is still being written.
func lock(file *os.File, shared bool, most time.Duration) error {
	how := syscall.LOCK_EX
	if shared {
		how = syscall.LOCK_SH
	}
	for deadline, pause := time.Now().Add(most), time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		err := syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if time.Now().After(deadline) {
			return bolterrors.ErrTimeout
		}
		time.Sleep(pause)
	}
}

func (b *Bolt) openError(err error) error {
	if b.existing && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("datastore %s: %w", b.path, ErrNoStore)
	}
	for cause, is := range map[error]error{
		bolterrors.ErrTimeout: ErrLocked, bolterrors.ErrInvalid: ErrCorrupt, bolterrors.ErrChecksum: ErrCorrupt,
		bolterrors.ErrVersionMismatch: ErrCorrupt,
	} {
		if errors.Is(err, cause) {
			return fmt.Errorf("datastore %s: %w (%v)", b.path, is, err)
		}
	}
	if strings.Contains(err.Error(), "file size too small") || strings.Contains(err.Error(), "EOF") {
		return fmt.Errorf("datastore %s: %w (%v)", b.path, ErrCorrupt, err)
	}
	return fmt.Errorf("opening datastore %s: %w", b.path, err)
}

// begin checks that the file is one of ours, and makes a new one ours.
func begin(raw *bbolt.Tx) (*Tx, error) {
	tx := &Tx{raw: raw, meta: raw.Bucket(metaBucket), objects: raw.Bucket(objectsBucket), journal: raw.Bucket(journalBucket)}
	if tx.meta == nil {
		first, _ := raw.Cursor().First()
		switch {
		case first == nil && !raw.Writable(): // the first transaction of all did not come about
			return nil, fmt.Errorf("datastore %s: %w", raw.DB().Path(), ErrNoStore)
		case first != nil:
			return nil, fmt.Errorf("datastore %s: %w: it has no bucket %q", raw.DB().Path(), ErrCorrupt, metaBucket)
		}
		return tx, tx.initialize()
	}
	version, err := strconv.Atoi(string(tx.meta.Get(versionKey)))
	switch {
	case err != nil || version < 1 || tx.objects == nil || tx.journal == nil:
		return nil, fmt.Errorf("datastore %s: %w: it has no version, objects or journal", raw.DB().Path(), ErrCorrupt)
	case version > layoutVersion:
		return nil, fmt.Errorf("datastore %s: %w: its layout is %d, this tierctl knows up to %d", raw.DB().Path(), ErrNewerVersion, version, layoutVersion)
	}
	head := tx.meta.Get(headKey)
	if len(head) != sealSize+8+stateSize+sealSize || !bytes.Equal(head[:sealSize], digest(headKey, head[sealSize:])) {
		return nil, fmt.Errorf("datastore %s: %w: its head is not what was written", raw.DB().Path(), ErrCorrupt)
	}
	head = head[sealSize:]
	tx.last, tx.state, tx.sum = number(head[:8]), head[8:8+stateSize], [sealSize]byte(head[8+stateSize:])
	tx.revision = tx.last
	return tx, nil
}

func (tx *Tx) initialize() (err error) {
	for name, b := range map[string]**bbolt.Bucket{string(metaBucket): &tx.meta, string(objectsBucket): &tx.objects, string(journalBucket): &tx.journal} {
		if *b, err = tx.raw.CreateBucket([]byte(name)); err != nil {
			return err
		}
	}
	if err := tx.meta.Put(versionKey, strconv.AppendInt(nil, layoutVersion, 10)); err != nil {
		return err
	}
	for _, t := range BuiltInTiers() {
		if _, err := tx.Create(t); err != nil {
			return err
		}
	}
	return nil
}

// end writes down the journal and the head, if anything changed.
func (tx *Tx) end() error {
	if tx.revision == tx.last {
		return nil
	}
	state := make([]byte, stateSize)
	rand.Read(state) // never fails
	for i, key := range tx.changed {
		at := append(bytesOf(tx.revision), bytesOf(uint64(i))...)
		if err := tx.put(tx.journal, at, append(bytes.Clone(state), key...)); err != nil {
			return err
		}
	}
	if err := tx.trimJournal(); err != nil {
		return err
	}
	head := slices.Concat(bytesOf(tx.revision), state, tx.sum[:])
	return tx.meta.Put(headKey, append(digest(headKey, head), head...))
}

// trimJournal forgets whole revisions from the front. Stats count the whole bucket, so it is asked only now and then.
func (tx *Tx) trimJournal() error {
	if tx.revision%1000 != 0 && len(tx.changed) < maxJournal/10 {
		return nil
	}
	extra := tx.journal.Stats().KeyN + len(tx.changed) - maxJournal
	c := tx.journal.Cursor()
	var last uint64
	for k, v := c.First(); k != nil && (extra > 0 || number(k[:8]) == last); k, v = c.First() {
		last, extra = number(k[:8]), extra-1
		tx.add(v)
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

const (
	stateSize = 16
	sealSize  = 16
	fill      = 0.95 // of a page, when it is split: most objects are written in the order of their keys, and each page costs all who open the file
)

// digest seals a value.
func digest(key, value []byte) []byte {
	h := sha256.New()
	h.Write(key)
	h.Write(value)
	return h.Sum(nil)[:sealSize:sealSize]
}

// put seals a value and writes it, and remove is its opposite.
func (tx *Tx) put(b *bbolt.Bucket, key, value []byte) error {
	tx.add(b.Get(key))
	sealed := append(digest(key, value), value...)
	tx.add(sealed)
	b.FillPercent = fill
	return b.Put(key, sealed)
}

func (tx *Tx) remove(b *bbolt.Bucket, key []byte) error {
	tx.add(b.Get(key))
	return b.Delete(key)
}

// get gives a value without its seal, which verify has looked at; nil when there is none.
func get(b *bbolt.Bucket, key []byte) []byte { return unsealed(b.Get(key)) }

func unsealed(sealed []byte) []byte {
	if sealed == nil {
		return nil
	}
	return sealed[sealSize:]
}

// add puts a seal into the sum, or takes it out: twice is not at all.
func (tx *Tx) add(sealed []byte) {
	if sealed != nil {
		subtle.XORBytes(tx.sum[:], tx.sum[:], sealed[:sealSize])
	}
}

// verify tells whether every value is what was written, and none is missing.
func (tx *Tx) verify() error {
	have := Tx{}
	for _, b := range []*bbolt.Bucket{tx.objects, tx.journal} {
		c := b.Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if len(v) < sealSize || !bytes.Equal(v[:sealSize], digest(k, v[sealSize:])) {
				return fmt.Errorf("%w: %q is not what was written", ErrCorrupt, k)
			}
			have.add(v)
		}
	}
	if have.sum != tx.sum {
		return fmt.Errorf("%w: something is missing", ErrCorrupt)
	}
	return nil
}

func bytesOf(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// number reads what bytesOf wrote; nothing is 0.
func number(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func keyOf(ref v3.Ref) []byte { return key.Key(ref).Bytes() }

func refOfKey(text []byte) (v3.Ref, error) {
	k, err := key.Parse(text)
	if err != nil {
		return v3.Ref{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return v3.Ref(k), nil
}
