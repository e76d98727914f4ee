package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Bolt is a Store in one bbolt file. No process holds the file open for longer than one transaction, so that the command line
// and the agent can share it. A file has three buckets:
//
//	meta     version: of this layout; id: of the file; revision: of the last transaction
//	objects  kind NUL namespace NUL name → the object as JSON
//	journal  revision and a number → the key of an object that changed then, the last maxJournal of them
type Bolt struct {
	path string
	wait time.Duration // for another process to let the file go
}

const (
	layoutVersion = 1
	maxJournal    = 10000
)

var (
	metaBucket    = []byte("meta")
	objectsBucket = []byte("objects")
	journalBucket = []byte("journal")
	versionKey    = []byte("version")
	idKey         = []byte("id")
	revisionKey   = []byte("revision")
)

// OpenBolt names a file. It is opened by each operation, and created by the first that writes.
func OpenBolt(path string) *Bolt { return &Bolt{path: path, wait: 5 * time.Second} }

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

// Put implements Store.
func (b *Bolt) Put(ctx context.Context, obj client.Object) (out client.Object, err error) {
	_, err = b.Transact(ctx, func(tx *Tx) error {
		if _, err = tx.Get(v3.RefOf(obj.(v3.Object))); errors.Is(err, ErrNotFound) && obj.GetResourceVersion() == "" {
			out, err = tx.Create(obj)
		} else {
			out, err = tx.Update(obj)
		}
		return err
	})
	return out, err
}

// Delete implements Store.
func (b *Bolt) Delete(ctx context.Context, obj client.Object) error {
	ref := v3.RefOf(obj.(v3.Object))
	_, err := b.Transact(ctx, func(tx *Tx) error {
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

// Transact does all that f does or, when f gives an error, nothing. It gives the revision that the store then has. What f
// changed carries it as its resourceVersion.
func (b *Bolt) Transact(ctx context.Context, f func(*Tx) error) (revision string, err error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(b.path), 0o700); err != nil {
		return "", fmt.Errorf("creating the datastore's directory: %w", err)
	}
	err = b.open(false, func(db *bbolt.DB) error {
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

func (b *Bolt) view(ctx context.Context, f func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := os.Stat(b.path); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("datastore %s: %w", b.path, ErrNoStore)
	}
	return b.open(true, func(db *bbolt.DB) error {
		return db.View(func(raw *bbolt.Tx) error {
			tx, err := begin(raw)
			if err != nil {
				return err
			}
			return f(tx)
		})
	})
}

// open opens the file for as long as f runs. bbolt answers a damaged page with a panic, and a truncated file with a fault in
// the memory that is mapped to it: both are caught here and nowhere else, and become ErrCorrupt.
func (b *Bolt) open(readOnly bool, f func(*bbolt.DB) error) (err error) {
	defer func(old bool) {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			err = fmt.Errorf("datastore %s: %w (%v)", b.path, ErrCorrupt, p)
		}
	}(debug.SetPanicOnFault(true))
	db, err := bbolt.Open(b.path, 0o600, &bbolt.Options{Timeout: b.wait, ReadOnly: readOnly})
	if err != nil {
		return b.openError(err)
	}
	defer db.Close()
	return f(db)
}

func (b *Bolt) openError(err error) error {
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
	case err != nil || tx.objects == nil || tx.journal == nil:
		return nil, fmt.Errorf("datastore %s: %w: it has no version, objects or journal", raw.DB().Path(), ErrCorrupt)
	case version > layoutVersion:
		return nil, fmt.Errorf("datastore %s: %w: its layout is %d, this tierctl knows up to %d", raw.DB().Path(), ErrNewerVersion, version, layoutVersion)
	}
	tx.last = number(tx.meta.Get(revisionKey))
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
	if err := tx.meta.Put(idKey, []byte(uuid.NewUUID())); err != nil {
		return err
	}
	for _, t := range builtInTiers() {
		if _, err := tx.Create(t); err != nil {
			return err
		}
	}
	return nil
}

// end writes down the revision and the journal, if anything changed.
func (tx *Tx) end() error {
	if tx.revision == tx.last {
		return nil
	}
	if err := tx.meta.Put(revisionKey, bytesOf(tx.revision)); err != nil {
		return err
	}
	for i, key := range tx.changed {
		if err := tx.journal.Put(append(bytesOf(tx.revision), bytesOf(uint64(i))...), key); err != nil {
			return err
		}
	}
	return tx.trimJournal()
}

// trimJournal forgets whole revisions from the front. Stats count the whole bucket, so it is asked only now and then.
func (tx *Tx) trimJournal() error {
	if tx.revision%1000 != 0 && len(tx.changed) < maxJournal/10 {
		return nil
	}
	extra := tx.journal.Stats().KeyN + len(tx.changed) - maxJournal
	c := tx.journal.Cursor()
	var last uint64
	for k, _ := c.First(); k != nil && (extra > 0 || number(k[:8]) == last); k, _ = c.First() {
		last, extra = number(k[:8]), extra-1
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return tx.meta.Put(forgottenKey, bytesOf(max(last, number(tx.meta.Get(forgottenKey)))))
}

var forgottenKey = []byte("forgotten") // the last revision that the journal no longer has

func bytesOf(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// number reads what bytesOf wrote; nothing is 0.
func number(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func keyOf(ref v3.Ref) []byte { return []byte(ref.Kind + "\x00" + ref.Namespace + "\x00" + ref.Name) }

func refOfKey(key []byte) (v3.Ref, error) {
	p := bytes.Split(key, []byte{0})
	if len(p) != 3 {
		return v3.Ref{}, fmt.Errorf("%w: a key is not kind, namespace and name", ErrCorrupt)
	}
	return v3.Ref{Kind: string(p[0]), Namespace: string(p[1]), Name: string(p[2])}, nil
}
