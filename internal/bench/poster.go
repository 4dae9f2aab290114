package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// poster is one client with one connection that it keeps.
type poster struct {
	http *http.Client
	read bytes.Buffer
}

// newPosters makes clients that are as cheap as possible: they share the processors with the server.
func newPosters(n int, conf *tls.Config, http2 bool) []*poster {
	out := make([]*poster, n)
	for i := range out {
		p := new(http.Protocols)
		p.SetHTTP1(!http2)
		p.SetHTTP2(http2)
		out[i] = &poster{http: &http.Client{Transport: &http.Transport{TLSClientConfig: conf.Clone(), Protocols: p, MaxIdleConnsPerHost: 1}}}
	}
	return out
}

func closePosters(all []*poster) {
	for _, p := range all {
		p.http.CloseIdleConnections()
	}
}

// post sends body and gives the answer, which lives until the next one.
func (p *poster) post(ctx context.Context, url string, body []byte, want int) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if want > 0 {
		req.Header.Set("Want", strconv.Itoa(want))
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	p.read.Reset()
	if _, err := io.Copy(&p.read, resp.Body); err != nil {
		return 0, nil, err
	}
	return resp.StatusCode, p.read.Bytes(), nil
}

func unexpected(status int, answer []byte) error {
	if bytes.Contains(answer, []byte(errLate.Error())) {
		return errLate
	}
	return fmt.Errorf("status %d: %.300s", status, answer)
}
