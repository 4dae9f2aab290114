package appliance

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

// The conformance profile takes what callers say of themselves: never in production, and never on an address that others
// reach.
func TestConformanceIsForDevelopment(t *testing.T) {
	text := example(t)
	for _, tc := range []struct{ extra, problem string }{
		{"\nconformance: {listen: \"127.0.0.1:9443\"}\n", "conformance: allowed with development: true only"},
		{"\ndevelopment: true\nconformance: {listen: \"0.0.0.0:9443\"}\n", "conformance.listen"},
		{"\ndevelopment: true\nconformance: {listen: \"localhost:9443\"}\n", "conformance.listen"},
		{"\ndevelopment: true\nconformance: {listen: \":9443\"}\n", "conformance.listen"},
		{"\ndevelopment: true\nconformance: {}\n", "conformance.listen"},
		{"\ndevelopment: true\nconformance: {listen: \"127.0.0.1:9443\"}\n", ""},
		{"\ndevelopment: true\nconformance: {listen: \"[::1]:0\"}\n", ""},
	} {
		_, err := ParseConfig([]byte(text + tc.extra))
		if (err == nil) != (tc.problem == "") || err != nil && !strings.Contains(err.Error(), tc.problem) {
			t.Errorf("%s: %v", tc.extra, err)
		}
	}
	c, err := ParseConfig([]byte(text))
	if err != nil || c.Conformance != nil {
		t.Fatalf("it is on by default: %v", err)
	}
	// The example's configuration is that of a production appliance, made otherwise than by ParseConfig.
	log := slog.New(slog.DiscardHandler)
	if p, err := c.newConformance(t.Context(), time.Now, log); p != nil || err != nil {
		t.Errorf("%v %v", p, err)
	}
	c.Conformance = &Conformance{Listen: "127.0.0.1:0"}
	if _, err := c.newConformance(t.Context(), time.Now, log); err == nil {
		t.Error("made in production")
	}
	c.Development = true
	if p, err := c.newConformance(t.Context(), time.Now, log); p == nil || err != nil {
		t.Errorf("%v", err)
	}
	c.Conformance.Listen = "0.0.0.0:0"
	if _, err := c.newConformance(t.Context(), time.Now, log); err == nil {
		t.Error("made for the whole network")
	}
}
