package main

import (
	"errors"
	"os"
	"testing"
	"time"
)

func TestPercentileAndSpread(t *testing.T) {
	s := sample{ops: 100, wall: time.Second, cpu: 200 * time.Millisecond}
	for i := range 100 {
		s.latency = append(s.latency, time.Duration(i))
	}
	if p50, p99 := s.percentile(0.5), s.percentile(0.99); p50 != 50 || p99 != 99 || s.rate() != 100 || s.cost() != 2*time.Millisecond {
		t.Errorf("p50 %d, p99 %d, rate %v, cost %s", p50, p99, s.rate(), s.cost())
	}
	got := medianOf([]sample{{ops: 30, wall: time.Second}, {ops: 10, wall: time.Second}, {ops: 20, wall: time.Second}}, sample.rate)
	if got != (spread{20, 10, 30}) {
		t.Errorf("%+v", got)
	}
}

// A child's CPU time is read from /proc and this process's from getrusage: they must agree.
func TestProcessTimesAgree(t *testing.T) {
	for until := time.Now().Add(100 * time.Millisecond); time.Now().Before(until); {
		_ = unexpected(0, nil)
	}
	own, err := self{}.cpu()
	other, err2 := pid(os.Getpid()).cpu()
	if d := own - other; err != nil || err2 != nil || own == 0 || d < -2*tick || d > 2*tick {
		t.Errorf("getrusage %s %v, /proc %s %v", own, err, other, err2)
	}
}

func TestLateIsNoOtherRefusal(t *testing.T) {
	if !errors.Is(unexpected(403, []byte(`{"detail":"policy_timeout"}`)), errLate) || errors.Is(unexpected(403, []byte(`{"detail":"policy_denied"}`)), errLate) {
		t.Error("policy_timeout, and nothing else, is late")
	}
}
