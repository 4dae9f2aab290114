package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	v1 "github.com/signet-pki/signet/api/v1"
)

// wellKnown is where AuthZEN's metadata is, with the path of the public URL behind it (Authorization API 1.0, "Obtaining
// Policy Decision Point Metadata").
const wellKnown = "/.well-known/authzen-configuration"

func accessMetadata(publicURL string) ([]byte, error) {
	raw, err := json.Marshal(v1.AccessConfiguration{
		PolicyDecisionPoint:       publicURL,
		AccessEvaluationEndpoint:  publicURL + "/access/v1/evaluation",
		AccessEvaluationsEndpoint: publicURL + "/access/v1/evaluations",
	})
	if err != nil {
		return nil, fmt.Errorf("api: access metadata: %w", err)
	}
	return raw, nil
}

// accessConfiguration answers at the one URL that its own identifier makes: a reader must not use another's.
func (s *Server) accessConfiguration(c *call) (reply, error) {
	u, err := url.Parse(s.cfg.PublicURL)
	if err != nil {
		return reply{}, fmt.Errorf("api: access metadata: %w", err)
	}
	if c.echo.Request().URL.Path != wellKnown+u.Path {
		return reply{}, ErrNotFound
	}
	return reply{status: http.StatusOK, raw: s.metadata, media: mediaJSON, cache: "public, max-age=300"}, nil
}
