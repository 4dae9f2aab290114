// Package echomw is the middleware of package client for Echo.
//
// It adds nothing to what client.RequireDelegation does and refuses: the same checks at every request, the same answers,
// the same context that ends with the caller's identity. It is safe for concurrent use.
package echomw

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/signet-pki/signet/client"
)

// RequireDelegation lets a request through only if v verifies its caller for what demand says. The handler reads the
// caller with client.FromContext(c.Request().Context()).
func RequireDelegation(v *client.Verifier, demand func(echo.Context) (client.Demand, error)) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) (err error) {
			asked := func(*http.Request) (client.Demand, error) { return demand(c) }
			through := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				c.SetRequest(r)
				err = next(c)
			})
			client.RequireDelegation(v, asked, through).ServeHTTP(c.Response(), c.Request())
			return err
		}
	}
}
