package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics counts requests by endpoint and status, never by caller.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	unrouted prometheus.Counter
	handler  http.Handler
}

func newMetrics(reg *prometheus.Registry) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_http_requests_total", Help: "Requests by endpoint and status.",
		}, []string{"endpoint", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "signet_http_request_seconds", Help: "Time to answer, by endpoint.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"endpoint"}),
		unrouted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "signet_http_unrouted_total", Help: "Requests for endpoints or methods that do not exist.",
		}),
	}
	own := []prometheus.Collector{m.requests, m.seconds, m.unrouted}
	if reg == nil {
		reg = prometheus.NewRegistry()
		own = append(own, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	for _, c := range own {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	m.handler = promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	return m, nil
}

// counters are those of one endpoint.
type counters struct {
	requests *prometheus.CounterVec
	seconds  prometheus.Observer
}

func (m *metrics) of(r *route) counters {
	return counters{
		requests: m.requests.MustCurryWith(prometheus.Labels{"endpoint": r.id}),
		seconds:  m.seconds.WithLabelValues(r.id),
	}
}

func (c counters) done(status int, took time.Duration) {
	c.requests.WithLabelValues(strconv.Itoa(status)).Inc()
	c.seconds.Observe(took.Seconds())
}

func (s *Server) showMetrics(c *call) (reply, error) {
	s.header(c, c.echo.Response().Header(), mediaText, "")
	return c.hand(s.metrics.handler)
}
