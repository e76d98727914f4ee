package main

import (
	"net/http"
	"time"
)

// server of health and metrics. Whoever reaches the node may ask, so that nobody's connection is kept for long, nor more than a little of
// what he says.
func server(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
}
