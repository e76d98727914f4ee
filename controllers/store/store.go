// Package store keeps objects at rest: the v3 kinds and the Kubernetes kinds that policy is decided from. What gets into a
// store has passed Admit. It knows what an object must be to be accepted, and not what it means for a packet.
package store

import (
	"context"
	"errors"
	"iter"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Store is where objects are: Bolt, a file on a host without a cluster, or Kube, a cluster's API server. Every object that a store gives
// carries its apiVersion and kind.
type Store interface {
	// Get gives one object, or ErrNotFound.
	Get(ctx context.Context, ref v3.Ref) (client.Object, error)
	// List gives the objects of a kind in a namespace, or in all when namespace is "", sorted by namespace and name.
	List(ctx context.Context, kind, namespace string) ([]client.Object, error)
	// Put creates obj or replaces it, and gives it as it is stored. ErrConflict when obj carries a resourceVersion and the
	// stored object has another.
	Put(ctx context.Context, obj client.Object) (client.Object, error)
	// PutStatus replaces the status of objects that there are, and nothing else of them. What can be written is, whatever else cannot;
	// the error joins one for each that cannot, ErrConflict and ErrNotFound among them.
	PutStatus(ctx context.Context, objs ...client.Object) error
	// Delete removes an object, or gives ErrNotFound; ErrConflict as for Put.
	Delete(ctx context.Context, obj client.Object) error
	// Transact does all that f does, or nothing when f gives an error. It gives the revision that the store then has; what f changed
	// carries it as its resourceVersion. An API server has no transactions: see Kube.
	Transact(ctx context.Context, f func(Writer) error) (revision string, err error)
	// Watch tells everything, then Synced, then what changes, with Synced again whenever all there is has been told. An
	// error is told in place of an event; the watch then goes on by itself. It ends with ctx.
	Watch(ctx context.Context) iter.Seq2[Event, error]
}

// Writer reads and writes within a Transact: what it reads is the store with its own changes.
type Writer interface {
	Get(ref v3.Ref) (client.Object, error)
	List(kind, namespace string) ([]client.Object, error)
	// Create adds an object, and gives it as it is stored; ErrExists.
	Create(obj client.Object) (client.Object, error)
	// Update replaces an object's labels, annotations and spec, and gives it as it is stored; ErrNotFound, ErrConflict. Nothing is
	// written when nothing changes.
	Update(obj client.Object) (client.Object, error)
	// Apply makes of an object's fields what obj, as it is written in a file, says of them, and leaves the others: a server-side apply. It
	// gives the object as it is stored; ErrOwned where another manager has a field that obj would change.
	Apply(obj *unstructured.Unstructured, o ApplyOptions) (client.Object, error)
	// Delete removes an object; ErrNotFound.
	Delete(ref v3.Ref) error
}

// ApplyOptions of Apply.
type ApplyOptions struct {
	Manager string // who says so; what he said before and does not say any more is removed
	Force   bool   // take fields from other managers
}

// Event is one thing that a watch tells.
type Event struct {
	Type     EventType
	Ref      v3.Ref        // of Put and Deleted
	Object   client.Object // of Put
	Corrupt  error         // of Put: why the object cannot be decoded; Object has its metadata alone then
	Revision string        // of Synced: what the store's state is called
	// Remembered, of Synced: what was told is what a Snapshot remembers; what there is now will be told after it.
	Remembered bool
	Anew       bool // of Synced: the store is another than was told, or an older copy; generations and resourceVersions begin anew
}

// EventType is what an Event says.
type EventType uint8

// The events.
const (
	Put     EventType = iota // the object is new, or has changed
	Deleted                  // the object is gone
	Synced                   // all that there is at Revision has been told
)

// What can be wrong; errors wrap one of these and say what was being done to what.
var (
	ErrNotFound      = errors.New("does not exist")
	ErrExists        = errors.New("exists already")
	ErrConflict      = errors.New("has been changed meanwhile: its resourceVersion is another")
	ErrOwned         = errors.New("has fields that others manage")
	ErrInvalid       = errors.New("is not valid")
	ErrForbidden     = errors.New("is not allowed")
	ErrPartly        = errors.New("were written")
	ErrNoKind        = errors.New("the cluster does not know this kind: its CRD is not installed")
	ErrNoStatus      = errors.New("is not kept by the API server: the CRD is another's; tierctl crds check says what it lacks")
	ErrUnfollowed    = errors.New("none are followed until it is")
	ErrNoStore       = errors.New("there is no such store: tierctl apply creates it")
	ErrLocked        = errors.New("another process holds the file")
	ErrMigrating     = errors.New("is locked")
	ErrCorrupt       = errors.New("the file is damaged, or is no store of Tierwall's")
	ErrCorruptObject = errors.New("cannot be decoded")
	ErrNewerVersion  = errors.New("the file was written by a newer version")
)
