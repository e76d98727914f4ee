package controllers

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are all that an agent or a controller counts. Names begin with tierwall_.
type Metrics struct {
	programmed     *prometheus.CounterVec
	programTook    prometheus.Histogram
	changes        prometheus.Counter
	storeErrors    prometheus.Counter
	foreign        prometheus.Counter
	enforcing      prometheus.Gauge
	lastProgrammed prometheus.Gauge
	endpoints      prometheus.Gauge
	policies       prometheus.Gauge
	sets           prometheus.Gauge
	refused        prometheus.Gauge
	reports        *prometheus.CounterVec
	podStart       prometheus.Histogram
	told           prometheus.Histogram

	statusWrites *prometheus.CounterVec
	notAccepted  prometheus.Gauge
	nodes        *prometheus.GaugeVec
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		programmed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tierwall_programmed_total",
			Help: "How often the kernel's table was programmed, by result."}, []string{"result"}),
		programTook: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tierwall_program_seconds",
			Help:    "From a plan to the kernel's table being as it says.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15)}),
		changes:     counter("tierwall_changes_total", "How many changes the kernel's table took: sets, maps, chains, rules and members of them."),
		storeErrors: counter("tierwall_store_errors_total", "How often the store could not be read."),
		foreign:     counter("tierwall_foreign_changes_total", "How often another program had changed the kernel's table."),
		enforcing:   gauge("tierwall_enforcing", "1 while all that the node was told is in force, else 0."),
		lastProgrammed: gauge("tierwall_last_programmed_timestamp_seconds",
			"When the kernel's table was last found to be, or made, as the plan says."),
		endpoints: gauge("tierwall_endpoints", "How many endpoints the node guards: its workloads and its own interfaces."),
		policies:  gauge("tierwall_policies", "How many policies select one of them."),
		sets:      gauge("tierwall_sets", "How many sets of addresses they name."),
		refused:   gauge("tierwall_refused_objects", "How many objects cannot be enforced as they are written."),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tierwall_reports_total",
			Help: "How often the node told the store what it enforces, by result."}, []string{"result"}),
		podStart: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tierwall_pod_start_to_programmed_seconds",
			Help:    "From when a pod of the node had its network, as the kubelet says, in whole seconds, to its policy being in force.",
			Buckets: []float64{0.5, 1, 1.5, 2, 3, 5, 10, 20, 60, 300}}),
		told: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tierwall_told_to_programmed_seconds",
			Help:    "From when the store told of a change to its being in force.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
		statusWrites: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tierwall_status_writes_total",
			Help: "How many statuses of objects were written, by kind."}, []string{"kind"}),
		notAccepted: gauge("tierwall_not_accepted_objects", "How many objects have the condition Accepted=False."),
		nodes: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tierwall_nodes",
			Help: "How many nodes have reported, by whether all is in force there."}, []string{"enforcing"}),
	}
	r.MustRegister(m.programmed, m.programTook, m.changes, m.storeErrors, m.foreign, m.enforcing, m.lastProgrammed, m.endpoints, m.policies, m.sets,
		m.refused, m.reports, m.podStart, m.told, m.statusWrites, m.notAccepted, m.nodes)
	return m
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}

func result(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m *Metrics) attempt(start time.Time, err error) {
	m.programmed.WithLabelValues(result(err)).Inc()
	m.programTook.Observe(time.Since(start).Seconds())
	m.enforcing.Set(truth(err == nil))
	if err == nil {
		m.lastProgrammed.SetToCurrentTime()
	}
}
