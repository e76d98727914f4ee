package store

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/wait"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// Watch implements Store. Nothing is told before every kind has been told whole; afterwards each kind goes on by itself. A kind that
// cannot be listed or watched is an error, and what was told of it still stands: also when its CRD has gone, with its objects.
func (k *Kube) Watch(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		ctx, stop := context.WithCancel(ctx)
		f := &follower{seed: maphash.MakeSeed(), bell: make(chan struct{}, 1), pending: map[v3.Ref]Event{}, complaints: map[string]bool{}}
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		if err := f.start(ctx, k, &running); err != nil {
			yield(Event{}, err)
			return
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-f.bell:
			}
			errs, events := f.take()
			for _, err := range errs {
				if !yield(Event{}, err) {
					return
				}
			}
			for _, e := range events {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// follower gathers what the reflectors of all kinds say.
type follower struct {
	seed maphash.Seed
	bell chan struct{} // rings when there is something to take

	mu         sync.Mutex
	feeds      []*feed
	pending    map[v3.Ref]Event // the last of each object
	order      []v3.Ref         // of pending
	errs       []error
	complaints map[string]bool // that were told, and hold
	anew       bool
	told       bool // something changed, or all was told for the first time
}

// feed is one kind's part: what its reflector writes into, and the reflector's way to the API server.
type feed struct {
	*follower
	kind    *Kind
	lw      lister
	known   map[v3.Ref]uint64 // what each object that was told is sealed with
	version string            // how far the kind has come
	synced  bool
	failing string
	doubted map[v3.Ref]bool // said to be deleted, but perhaps only because the kind is
	doubts  chan struct{}   // rings when there are some
	going   func(context.Context) (bool, error)
	expires time.Time // when the last watch was to end by itself
	passing time.Time // since when there were but errors that pass
}

// lister is a kind's way to the API server.
type lister struct {
	list  func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch func(context.Context, metav1.ListOptions) (apiwatch.Interface, error)
}

func (f *follower) start(ctx context.Context, k *Kube, running *sync.WaitGroup) error {
	http, err := rest.HTTPClientFor(k.config)
	if err != nil {
		return fmt.Errorf("cluster %s: %w", k.config.Host, err)
	}
	for i := range k.kinds {
		d := &feed{follower: f, kind: &k.kinds[i], known: map[v3.Ref]uint64{}, doubted: map[v3.Ref]bool{}, doubts: make(chan struct{}, 1)}
		if d.lw, err = k.lister(d.kind, http); err != nil {
			return err
		}
		f.feeds = append(f.feeds, d)
	}
	for _, d := range f.feeds {
		if d.kind.HasCRD() || d.kind.foreign() {
			d.going = func(ctx context.Context) (bool, error) { return k.going(ctx, d.kind) }
			running.Go(func() { d.judge(ctx) })
		}
	}
	quiet := logr.Discard() // the feeds say what goes wrong
	for _, d := range f.feeds {
		r := cache.NewReflectorWithOptions(d.listWatch(), nil, d, cache.ReflectorOptions{Name: d.kind.Kind, Logger: &quiet,
			Backoff: &wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 6, Cap: 10 * time.Second}})
		running.Go(func() { r.RunWithContext(klog.NewContext(ctx, quiet)) })
	}
	return nil
}

// lister of a kind: those of CRDs are decoded one by one here, so that one that cannot be is alone; Kubernetes' own come as protobuf.
func (k *Kube) lister(kind *Kind, http *http.Client) (lister, error) {
	if kind.HasCRD() || kind.foreign() {
		r := k.dynamic.Resource(kind.resource())
		return lister{
			func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return r.List(ctx, o) },
			r.Watch,
		}, nil
	}
	c, err := apiutil.RESTClientForGVK(kind.GVK, false, false, k.config, serializer.NewCodecFactory(Scheme), http)
	if err != nil {
		return lister{}, fmt.Errorf("%s: %w", kind.GVK, err)
	}
	resource := kind.resource().Resource
	return lister{
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return c.Get().Resource(resource).VersionedParams(&o, metav1.ParameterCodec).Do(ctx).Get()
		},
		func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			o.Watch = true
			return c.Get().Resource(resource).VersionedParams(&o, metav1.ParameterCodec).Watch(ctx)
		},
	}, nil
}

// listWatch notes how the API server answers: what a reflector tries again by itself it does not say.
func (d *feed) listWatch() *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := d.lw.list(ctx, o)
			d.answered(ctx, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (w apiwatch.Interface, err error) {
			if err = d.resumable(ctx, o); err == nil {
				w, err = d.lw.watch(ctx, o)
			}
			d.answered(ctx, err)
			return w, err
		},
	}
}

// resumable tells whether a watch may go on from a version: that the API server has come as far. One whose etcd was put back to an older
// state says nothing to who asks for what comes after a version that it has not reached; the kind must be listed again. It is asked only
// where the last watch ended before its time, for a cluster's nodes all begin new watches all the time.
func (d *feed) resumable(ctx context.Context, o metav1.ListOptions) error {
	early := time.Now().Before(d.expires)
	d.expires = time.Now().Add(time.Duration(ptr.Deref(o.TimeoutSeconds, 0))*time.Second - time.Second)
	if !early || o.SendInitialEvents != nil || o.ResourceVersion == "" || o.ResourceVersion == "0" {
		return nil
	}
	list, err := d.lw.list(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	at, err := meta.ListAccessor(list)
	if err != nil {
		return err
	}
	if older(at.GetResourceVersion(), o.ResourceVersion) {
		return apierrors.NewResourceExpired("the API server has gone back to an older state")
	}
	return nil
}

func (d *feed) answered(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil:
	case err != nil:
		d.failed(err)
	default:
		d.recovered()
	}
}

// failed tells of an error that does not pass: once for each reason, however many kinds it stops.
func (d *feed) failed(err error) {
	text, wrapped := reason(err), fmt.Errorf("%s: %w", d.kind.Kind, err)
	d.mu.Lock()
	defer d.mu.Unlock()
	if passing(err) {
		if d.passing.IsZero() {
			d.passing = time.Now()
		}
		if time.Since(d.passing) < passingFor {
			return
		}
	}
	if apierrors.IsNotFound(err) {
		text = d.kind.Kind + " " + ErrNoKind.Error()
		wrapped = fmt.Errorf("%s: %w", d.kind.GVK.GroupKind(), ErrNoKind)
		if d.kind.foreign() && len(d.known) == 0 {
			wrapped = fmt.Errorf("%w; %w", wrapped, ErrUnfollowed)
			d.told = d.told || !d.synced
			d.synced = true
		}
	}
	d.failing = text
	d.complain(text, wrapped)
	d.ring()
}

// passing is an error after which a reflector lists again; an API server that does not stream lists says that it is invalid to ask so. One
// that says nothing else for longer is complained of as well.
func passing(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsTooManyRequests(err) || apierrors.IsInvalid(err) || apierrors.IsTimeout(err)
}

const passingFor = time.Minute

// complain once of what holds.
func (f *follower) complain(text string, err error) {
	if !f.complaints[text] {
		f.complaints[text] = true
		f.errs = append(f.errs, err)
	}
}

// reason is what is wrong, whatever was asked for.
func reason(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err.Error()
	}
	return err.Error()
}

// recovered forgets a complaint when no kind has it any more.
func (d *feed) recovered() {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.failing
	d.failing, d.passing = "", time.Time{}
	if was != "" && !slices.ContainsFunc(d.feeds, func(o *feed) bool { return o.failing == was }) {
		delete(d.complaints, was)
	}
}

func (f *follower) ring() { ring(f.bell) }

func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

// take gives what there is to tell: errors, and once every kind has been told whole, events that end with Synced.
func (f *follower) take() (errs []error, events []Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	errs, f.errs = f.errs, nil
	if slices.ContainsFunc(f.feeds, func(d *feed) bool { return !d.synced }) || !f.told {
		return errs, nil
	}
	for _, ref := range f.order {
		events = append(events, f.pending[ref])
	}
	events = append(events, Event{Type: Synced, Revision: f.revision(), Anew: f.anew})
	f.pending, f.order, f.anew, f.told = map[v3.Ref]Event{}, nil, false, false
	return errs, events
}

// revision is how far the kind that has come furthest has.
func (f *follower) revision() string {
	last := ""
	for _, d := range f.feeds {
		if last == "" || older(last, d.version) {
			last = d.version
		}
	}
	return last
}

// older tells whether one resourceVersion is of an earlier state than another; what is none is of none.
func older(a, b string) bool {
	c, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && c < 0
}

// event is the next of an object, in place of one that nobody has taken yet.
func (f *follower) event(e Event) {
	if _, ok := f.pending[e.Ref]; !ok {
		f.order = append(f.order, e.Ref)
	}
	f.pending[e.Ref], f.told = e, true
}

// The verbs of cache.ReflectorStore.

// Add implements cache.ReflectorStore.
func (d *feed) Add(obj any) error { return d.one(obj, d.put) }

// Update implements cache.ReflectorStore.
func (d *feed) Update(obj any) error { return d.one(obj, d.put) }

// Delete implements cache.ReflectorStore.
func (d *feed) Delete(obj any) error {
	return d.one(obj, func(o *followed) { d.drop(o.ref) })
}

// one is what a watch says of one object.
func (d *feed) one(obj any, do func(*followed)) error {
	o, err := d.convert(obj)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.version = o.object.GetResourceVersion()
	do(o)
	d.ring()
	return nil
}

// Replace implements cache.ReflectorStore: it tells the difference. Where the kind has gone back to an earlier version the API server has
// other objects than before, or older copies of them: everything is told.
func (d *feed) Replace(list []any, version string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if older(version, d.version) {
		d.anew = true
		for ref := range d.known {
			d.known[ref] = 0
		}
	}
	there := make(map[v3.Ref]bool, len(list))
	for _, item := range list {
		o, err := d.convert(item)
		if err != nil {
			return err
		}
		there[o.ref] = true
		d.put(o)
	}
	for ref := range d.known {
		if !there[ref] {
			d.drop(ref)
		}
	}
	d.told = d.told || !d.synced
	d.version, d.synced = version, true
	delete(d.complaints, d.kind.Kind+" going")
	d.ring()
	return nil
}

// Bookmark implements cache.ReflectorBookmarkStore.
func (d *feed) Bookmark(version string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.version = version
	return nil
}

// Resync implements cache.ReflectorStore; there is nothing to resync.
func (d *feed) Resync() error { return nil }

// Transformer implements cache.TransformingStore, for what a reflector keeps while a list streams in.
func (d *feed) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) { return d.convert(obj) }
}

func (d *feed) put(o *followed) {
	delete(d.doubted, o.ref)
	seal := d.sealOf(o)
	if was, ok := d.known[o.ref]; ok && was == seal {
		return
	}
	d.known[o.ref] = seal
	d.event(Event{Type: Put, Ref: o.ref, Object: o.object, Corrupt: o.corrupt})
}

// drop an object, unless that is to be doubted first.
func (d *feed) drop(ref v3.Ref) {
	if _, ok := d.known[ref]; !ok {
		return
	}
	if d.going != nil {
		d.doubted[ref] = true
		ring(d.doubts)
		return
	}
	d.forget(ref)
}

func (d *feed) forget(ref v3.Ref) {
	delete(d.known, ref)
	d.event(Event{Type: Deleted, Ref: ref})
}
