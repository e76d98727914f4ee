// Package key tells the names of what a store's file holds, quickly: it looks at no value and verifies nothing, so that what it says is
// good for being offered to somebody, and for nothing else. It knows of no kind.
package key

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// Objects is the bucket that has the objects, and Separator stands between an object's kind, namespace and name there.
const (
	Objects   = "objects"
	Separator = "\x00"
)

// Key is the name of one object.
type Key struct{ Kind, Namespace, Name string }

// Bytes is the key in the bucket, and Parse its opposite.
func (k Key) Bytes() []byte { return []byte(k.Kind + Separator + k.Namespace + Separator + k.Name) }

// Parse reads what Bytes wrote.
func Parse(text []byte) (Key, error) {
	p := bytes.Split(text, []byte(Separator))
	if len(p) != 3 {
		return Key{}, errors.New("a key is not kind, namespace and name")
	}
	return Key{string(p[0]), string(p[1]), string(p[2])}, nil
}

// Read gives the keys of kinds in a file. Who writes to it meanwhile is waited for a moment.
func Read(path string, kinds ...string) (out []Key, err error) {
	defer func() {
		if p := recover(); p != nil { // so bbolt answers damage
			err = fmt.Errorf("reading %s: %v", path, p)
		}
	}()
	db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true, Timeout: 200 * time.Millisecond, NoFreelistSync: true})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(Objects))
		if bucket == nil {
			return fmt.Errorf("reading %s: it has no bucket %q", path, Objects)
		}
		for _, kind := range kinds {
			prefix := []byte(kind + Separator)
			c := bucket.Cursor()
			for at, _ := c.Seek(prefix); bytes.HasPrefix(at, prefix); at, _ = c.Next() {
				k, err := Parse(at)
				if err != nil {
					return err
				}
				out = append(out, k)
			}
		}
		return nil
	})
	return out, err
}
