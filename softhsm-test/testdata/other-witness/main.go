// Command other-witness is a witness that nobody here wrote: github.com/transparency-dev/witness behind its own HTTP handler,
// with its state in memory. It is a module of its own, for tests alone: nothing of it belongs into go.mod.
//
// It serves https at a free port of loopback, and prints "serving <URL> <verifier key>".
package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/witness/persistence/inmemory"
	"github.com/transparency-dev/witness/witness"
	"golang.org/x/mod/sumdb/note"
)

func main() {
	cert := flag.String("cert", "", "PEM file of the listener's certificate")
	key := flag.String("key", "", "PEM file of its key")
	vkey := flag.String("log", "", "verifier key of the log")
	flag.Parse()
	if err := run(*cert, *key, *vkey); err != nil {
		log.Fatal(err)
	}
}

func run(cert, key, vkey string) error {
	verifier, err := fnote.NewVerifier(vkey)
	if err != nil {
		return err
	}
	skey, own, err := note.GenerateKey(rand.Reader, "other-witness.test/w")
	if err != nil {
		return err
	}
	signer, err := fnote.NewSignerForCosignatureV1(skey)
	if err != nil {
		return err
	}
	if own, err = fnote.VKeyToCosignatureV1(own); err != nil {
		return err
	}
	w, err := witness.New(context.Background(), witness.Opts{
		Persistence: inmemory.New(), Signers: []note.Signer{signer},
		VerifierForLog: func(_ context.Context, origin string) (note.Verifier, bool, error) {
			return verifier, origin == verifier.Name(), nil
		},
	})
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", witness.NewHTTPHandler(w).AddCheckpoint)
	server := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
	fmt.Printf("serving https://%s %s\n", ln.Addr(), own)
	return server.ServeTLS(ln, "", "")
}
