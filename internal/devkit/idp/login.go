package idp

import (
	"crypto/rand"
	"html/template"
	"net/http"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"
)

const cookieName = "signet-development-idp"

// loginPage has a form of one click for each user; a script posts the fields id and login.
const loginPage = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Development sign-in</title></head>
<body><h1>Development sign-in</h1>
<p>This provider asks for no password and protects nothing.</p>
{{range .Users}}<form method="post" action="{{$.Action}}">
<input type="hidden" name="id" value="{{$.ID}}">
<button type="submit" name="login" value="{{.Login}}">{{.Name}}: {{.Subject}}, roles {{range .Roles}}{{.}} {{end}}</button>
</form>{{end}}</body></html>
`

// showLogin asks who is there, unless a session answers and the client accepts one.
func (p *Provider) showLogin(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	if c, err := r.Cookie(cookieName); err == nil && p.store.resume(id, c.Value) {
		p.finish(w, r, id)
		return
	}
	if !p.store.waiting(id) {
		http.Error(w, "no such sign-in", http.StatusBadRequest)
		return
	}
	page, err := template.New("login").Parse(loginPage)
	if err != nil {
		http.Error(w, "page", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	_ = page.Execute(w, struct { // the browser left: nobody to tell
		Users      []User
		ID, Action string
	}{p.cfg.Users, id, p.prefix + "/login"})
}

// takeLogin signs the chosen user in, with a session for later requests that accept one.
func (p *Provider) takeLogin(w http.ResponseWriter, r *http.Request) {
	id, session := r.PostFormValue("id"), rand.Text()
	if !p.store.login(id, r.PostFormValue("login"), session) {
		http.Error(w, "no such sign-in or user", http.StatusBadRequest)
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: session, Path: p.prefix + "/", MaxAge: int(sessionLife / time.Second),
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	p.finish(w, r, id)
}

// finish goes on to zitadel's callback, which sends the code to the client.
func (p *Provider) finish(w http.ResponseWriter, r *http.Request, id string) {
	ctx := op.ContextWithIssuer(r.Context(), p.cfg.Issuer)
	http.Redirect(w, r, op.AuthCallbackURL(p.op)(ctx, id), http.StatusSeeOther)
}
