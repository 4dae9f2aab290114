package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// FuzzReply reads what the process of a module may say: anything at all, once the module has written over its memory.
func FuzzReply(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\x00\x00\x00\x2a" + `{"id":1,"error":{"text":"x","kinds":["?"]}}`))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte("\x00\x00\x00\x17" + `{"id":2,"public":"MFkw"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		for {
			var r reply
			if err := readFrame(in, &r); err != nil {
				return
			}
			if a, key, err := r.publicHalf(); err == nil && (key == nil || a < P256 || a > Ed25519) {
				t.Errorf("%v is a key of %v", key, a)
			}
			if r.Error != nil && len(fmt.Sprint(r.Error)) > maxText {
				t.Error("an unbounded text")
			}
		}
	})
}

func TestFailureKeepsItsKind(t *testing.T) {
	for name, kind := range kinds {
		var pipe bytes.Buffer
		if err := writeFrame(&pipe, reply{ID: 7, Error: failed(fmt.Errorf("doing: %w", kind))}); err != nil {
			t.Fatal(err)
		}
		var got reply
		if err := readFrame(&pipe, &got); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(got.Error, kind) || got.ID != 7 || got.Error.Error() != "doing: "+kind.Error() {
			t.Errorf("%s became %v", name, got.Error)
		}
	}
	if errors.Is(&failure{Text: "x", Kinds: []string{"bad_signature", ""}}, ErrBadSignature) {
		t.Error("only this side says that a signature is bad")
	}
}

func TestFramesAreBounded(t *testing.T) {
	if err := writeFrame(&bytes.Buffer{}, reply{Signature: make([]byte, 2*maxFrame)}); err == nil {
		t.Error("written without a bound")
	}
	var r reply
	if err := readFrame(strings.NewReader("\x7f\xff\xff\xff"), &r); err == nil || !strings.Contains(err.Error(), "frame of") {
		t.Errorf("read without a bound: %v", err)
	}
}

func TestServeWantsATokenFirst(t *testing.T) {
	for _, q := range []request{{Op: opSign}, {Op: opOpen}, {Op: "?"}} {
		var in, out bytes.Buffer
		if err := writeFrame(&in, q); err != nil {
			t.Fatal(err)
		}
		if err := serve(&in, &out); err == nil || out.Len() > 0 {
			t.Errorf("%+v: %v, answered with %d bytes", q, err, out.Len())
		}
	}
}

// TestProcessThatMakesNoSense: it is ended, and whoever asked is told.
func TestProcessThatMakesNoSense(t *testing.T) {
	for name, script := range map[string]string{
		"ends":            "exit 3",
		"another answer":  `printf '\000\000\000\010{"id":9}' >&4; sleep 60`,
		"no JSON":         `printf '\000\000\000\002xx' >&4; sleep 60`,
		"too long":        `printf '\377\377\377\377' >&4; sleep 60`,
		"half an answer":  `printf '\000\000\000\010{"id' >&4`,
		"silence":         "exec sleep 60",
		"closes its pipe": "exec sleep 60 3>&- 4>&-",
	} {
		t.Run(name, func(t *testing.T) {
			buried := make(chan struct{})
			p, err := spawn([]string{"/bin/sh", "-c", script}, slog.New(slog.DiscardHandler), func(*process) { close(buried) })
			if err != nil {
				t.Fatal(err)
			}
			left := make(chan struct{})
			_, err = p.ask(t.Context(), time.Second, request{Op: opCheck}, func() { close(left) })
			if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrHung) != (name == "silence") {
				t.Errorf("error is %v", err)
			}
			<-left
			<-buried
			<-p.ended
			if _, err := p.ask(t.Context(), time.Second, request{Op: opCheck}, func() {}); !errors.Is(err, ErrUnavailable) {
				t.Errorf("asked after its end: %v", err)
			}
		})
	}
}

func TestChatterIsBounded(t *testing.T) {
	var out bytes.Buffer
	c := &chatter{log: slog.New(slog.NewTextHandler(&out, nil)), left: maxLines}
	for range 1000 {
		if n, err := c.Write([]byte("one\n\n" + strings.Repeat("x", 1<<16))); n != 1<<16+5 || err != nil {
			t.Fatal(n, err)
		}
	}
	if lines := strings.Count(out.String(), "\n"); lines != maxLines || out.Len() > maxLines*2*maxText {
		t.Errorf("%d lines of %d bytes", lines, out.Len())
	}
}

// TestProcessOutlivesItsCallers: a caller who leaves early does not end it.
func TestProcessOutlivesItsCallers(t *testing.T) {
	p, err := spawn([]string{"/bin/sh", "-c", "exec sleep 60"}, slog.New(slog.DiscardHandler), func(*process) {})
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.ask(gone, time.Minute, request{Op: opCheck}, func() {}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if !p.alive() {
		t.Error("it was ended")
	}
	p.end(ErrClosed)
	<-p.ended
}
