package extauthz

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"github.com/signet-pki/signet/delegation/chain"
)

func TestPathID(t *testing.T) {
	for path, want := range map[string]string{
		"/patients": "patients", "/ward7/42": "ward7:42", "/a/b/c.json": "a:b:c.json", "/...": "...", "/~x/_-": "~x:_-",
	} {
		got, err := pathID(&auth.AttributeContext_HttpRequest{Path: path})
		if err != nil || got != want {
			t.Errorf("%s: %q %v", path, got, err)
		}
	}
}

func TestMethodAction(t *testing.T) {
	for method, want := range map[string]string{
		"GET": "read", "HEAD": "read", "POST": "write", "PUT": "write", "PATCH": "write", "DELETE": "delete",
		"": "", "get": "", "OPTIONS": "", "CONNECT": "", "TRACE": "", "GET ": "",
	} {
		if got, err := methodAction(method); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q %v", method, got, err)
		}
	}
}

// Two paths never name one resource, and what is named needs no decoding.
func FuzzPathID(f *testing.F) {
	for _, p := range []string{"/patients", "/a/b", "/a:b", "/a%2fb", "//a", "/a/../b", "/a?b", "/a!", "/"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		id, err := pathID(&auth.AttributeContext_HttpRequest{Path: path})
		if err != nil {
			var fault *Fault
			if id != "" || !errors.As(err, &fault) || fault.Kind != NoResource {
				t.Fatalf("%q: %q %v", path, id, err)
			}
			return
		}
		if back := "/" + strings.ReplaceAll(id, ":", "/"); back != path || strings.ContainsAny(path, "%?#;*\\!") || strings.Contains(path, "//") {
			t.Fatalf("%q became %q", path, id)
		}
	})
}

// Whatever comes in a body, it is a question that can be decided, or a fault.
func FuzzRead(f *testing.F) {
	add := func(a *auth.AttributeContext) {
		raw, err := proto.Marshal(&auth.CheckRequest{Attributes: a})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(raw))), raw...))
	}
	add(nil)
	add(&auth.AttributeContext{
		Source: &auth.AttributeContext_Peer{Certificate: "-----BEGIN%20CERTIFICATE-----%0A"}, ContextExtensions: map[string]string{"resource_type": "x"},
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{Method: "GET", Path: "/x"}},
	})
	f.Add([]byte{0, 0, 0, 0, 1, 0xff})
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := Read(body)
		var fault *Fault
		if err != nil {
			if !errors.As(err, &fault) || fault.Kind != Malformed {
				t.Fatal(err)
			}
			return
		}
		q, err := r.Question()
		switch {
		case err != nil && (!errors.As(err, &fault) || fault.Kind == Malformed || fault.Field == ""):
			t.Fatal(err)
		case err == nil && (q.Certificate == nil || q.ResourceType == "" || q.ResourceID == "" || q.Action == ""):
			t.Fatalf("%+v", q)
		}
	})
}

// An id made of a path is one of a resource, where the path's bytes are a scope's.
func TestPathIDsAreResources(t *testing.T) {
	id, err := pathID(&auth.AttributeContext_HttpRequest{Path: "/ward7/42"})
	if err != nil {
		t.Fatal(err)
	}
	if token, err := chain.ResourceToken("records", id, "read"); err != nil || token.String() != "records:read:ward7:42" {
		t.Errorf("%s %v", token, err)
	}
}
