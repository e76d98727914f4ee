package controllers

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Health is what an agent's loop says of itself to those who ask.
type Health struct {
	mu      sync.Mutex
	busy    time.Time // since when the loop has been at one batch; zero while it waits for the next
	synced  bool      // the store has said everything once
	applied bool      // and that was in force once
	failed  error     // why not all is in force now
}

// stuck is how long one batch may take: the kernel needs minutes to read back the largest sets.
const stuck = 15 * time.Minute

func (h *Health) set(f func(*Health)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h)
}

// Live is an error when the loop is stuck.
func (h *Health) Live() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if took := time.Since(h.busy); !h.busy.IsZero() && took > stuck {
		return fmt.Errorf("the agent's loop has been at one batch for %s", took.Round(time.Second))
	}
	return nil
}

// Ready is an error until all that the store has said was in force once, and while it is not. A store that cannot be read is no reason:
// what was in force stays.
func (h *Health) Ready() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !h.synced:
		return errors.New("the store has not said everything yet")
	case h.failed != nil:
		return fmt.Errorf("not all is enforced: %w", h.failed)
	case !h.applied:
		return errors.New("nothing is enforced yet")
	}
	return nil
}

// Handler serves /healthz, /readyz and /metrics.
func (h *Health) Handler(metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", answer(h.Live))
	mux.Handle("GET /readyz", answer(h.Ready))
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return mux
}

// answer says ok, or what is wrong.
func answer(check func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok") // who has gone does not hear it
	})
}
