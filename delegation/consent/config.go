package consent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/signet-pki/signet/delegation/evidence"
)

const (
	defaultSkew    = 30 * time.Second
	maxSkew        = 5 * time.Minute
	defaultTimeout = 10 * time.Second
	maxSecret      = 4 << 10
	maxAnswer      = 1 << 20 // bytes of one answer of the provider
)

// callbackPath begins the path of every redirect URI; the provider's name follows, so that no two providers share one (RFC 9700 §4.4.2).
const callbackPath = "/v1/grants/callback/"

var nameForm = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// Config names the identity provider and Signet's registration there. Consent should have a client_id of its own, and a
// redirect URI that no other provider uses.
type Config struct {
	Name             string            // in the redirect URI and in links: [a-z0-9-]{1,32}
	Issuer           string            // exact OIDC issuer; https
	ClientID         string            // registered for consent alone
	ClientSecretFile string            // empty: a public client, with PKCE
	RedirectURL      string            // https://HOST/v1/grants/callback/NAME, as registered
	Scopes           []string          // beyond openid, where the provider needs them to give roles
	RolesClaim       string            // default roles; a dot descends: realm_access.roles
	GroupsClaim      string            // default groups
	AllowEmailSub    bool              // accept a sub that looks like an e-mail address; it would stand in certificates
	Skew             time.Duration     // accepted difference of clocks; default 30 s, at most 5 min
	Certificates     *UserCertificates // nil: no consent by jws
	Events           *Events           // nil: the provider's events are refused
	Exchange         *TokenExchange    // nil: no consent by token_exchange
	HTTPClient       *http.Client      // trusts the provider's CA; nil: the system's CAs. Redirects are never followed
	Now              func() time.Time
	Rand             io.Reader
}

func (c Config) complete() (Config, error) {
	if c.RolesClaim == "" {
		c.RolesClaim = "roles"
	}
	if c.GroupsClaim == "" {
		c.GroupsClaim = "groups"
	}
	if c.Skew == 0 {
		c.Skew = defaultSkew
	}
	var errs []error
	errs = append(errs, checkURL("issuer", c.Issuer), checkURL("redirect_url", c.RedirectURL))
	if !nameForm.MatchString(c.Name) {
		errs = append(errs, errors.New("name is not [a-z0-9-]{1,32}"))
	}
	if !strings.HasSuffix(c.RedirectURL, callbackPath+c.Name) {
		errs = append(errs, errors.New("redirect_url does not end in "+callbackPath+" and the name"))
	}
	if c.ClientID == "" {
		errs = append(errs, errors.New("client_id is required"))
	}
	if c.Skew < 0 || c.Skew > maxSkew {
		errs = append(errs, fmt.Errorf("skew is not in 0 to %v", maxSkew))
	}
	errs = append(errs, c.checkTypes()...)
	if c.Now == nil || c.Rand == nil {
		errs = append(errs, errors.New("clock and randomness are required"))
	}
	if err := errors.Join(errs...); err != nil {
		return c, fmt.Errorf("consent: configuration: %w", err)
	}
	return c, nil
}

const (
	minTokenAge = time.Second
	maxTokenAge = time.Hour
)

// checkTypes checks what the other types of consent need.
func (c Config) checkTypes() []error {
	var errs []error
	if x := c.Exchange; x != nil {
		if x.Audience == "" || x.Audience == c.ClientID {
			errs = append(errs, errors.New("exchange audience is missing, or the client_id of consent"))
		}
		if x.MaxAge < minTokenAge || x.MaxAge > maxTokenAge {
			errs = append(errs, fmt.Errorf("exchange max_age is not in %v to %v", minTokenAge, maxTokenAge))
		}
	}
	if c.Events != nil && (c.Events.Audience == "" || c.Events.Audience == c.ClientID) {
		errs = append(errs, errors.New("events audience is missing, or the client_id of consent"))
	}
	if u := c.Certificates; u != nil && (len(u.Roots) == 0 || !slices.Contains(evidence.SubjectFields(), u.SubjectFrom)) {
		errs = append(errs, fmt.Errorf("user certificates need CAs, and a subject from one of %v", evidence.SubjectFields()))
	}
	return errs
}

func checkURL(field, s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return fmt.Errorf("%s is not a plain https URL", field)
	}
	return nil
}

// secret reads the client secret. It stands in a file, never in the configuration.
func (c Config) secret() (string, error) {
	if c.ClientSecretFile == "" {
		return "", nil
	}
	b, err := os.ReadFile(c.ClientSecretFile)
	if err != nil {
		return "", fmt.Errorf("consent: read client secret: %w", err)
	}
	b = bytes.TrimRight(b, "\r\n")
	if len(b) == 0 || len(b) > maxSecret {
		return "", fmt.Errorf("consent: client secret file holds %d bytes", len(b))
	}
	return string(b), nil
}

// bounded makes a client out of the configured one that waits and reads only so much, and goes only where it was sent.
func bounded(c *http.Client) *http.Client {
	out := http.Client{Timeout: defaultTimeout}
	if c != nil {
		out = *c
	}
	if out.Timeout <= 0 || out.Timeout > defaultTimeout {
		out.Timeout = defaultTimeout
	}
	if out.Transport == nil {
		out.Transport = http.DefaultTransport
	}
	out.Transport = limited{out.Transport}
	out.Jar = nil
	out.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &out
}

// limited cuts answers off at maxAnswer.
type limited struct{ next http.RoundTripper }

func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
	return resp, nil
}

// origin is scheme://host of a URL that checkURL accepted.
func origin(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + strings.ToLower(u.Host)
}
