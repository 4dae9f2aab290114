// An OpenID provider for the browser tests: npm oidc-provider with its own pages, accounts that are whatever is typed, and
// everything in memory. Each line of standard input is the whole configuration, in JSON, from then on; it is answered by a line
// with the issuer. It ends with its standard input.
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';
import Provider, { interactionPolicy } from 'oidc-provider';

const realNow = Date.now.bind(Date);
let skew = 0;
Date.now = () => realNow() + skew;

// prompts is how a user is asked. A silent provider answers from its session whatever the client demands.
function prompts(silent) {
  const policy = interactionPolicy.base();
  if (silent) {
    const login = policy.get('login');
    login.checks.remove('login_prompt');
    login.checks.remove('max_age');
    login.requestable = true;
  }
  return policy;
}

// grantEverything spares the tests the provider's own page of consent.
async function grantEverything(ctx) {
  const grant = new ctx.oidc.provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
  grant.addOIDCScope('openid');
  await grant.save();
  return grant;
}

function make(config, issuer) {
  const provider = new Provider(issuer, {
    clients: config.clients.map((c) => ({
      client_id: c.id, redirect_uris: c.redirects, token_endpoint_auth_method: 'none',
      response_types: ['code'], grant_types: ['authorization_code'], id_token_signed_response_alg: config.alg,
    })),
    jwks: config.jwks,
    cookies: { keys: [config.secret] },
    pkce: { required: () => true },
    features: { devInteractions: { enabled: true } },
    interactions: { policy: prompts(config.silent) },
    conformIdTokenClaims: false,
    claims: { openid: ['sub', 'roles'] },
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id, roles: config.roles[id] ?? [] }) }),
    loadExistingGrant: grantEverything,
  });
  if (config.silent) { // its users signed in an hour ago
    provider.Session.prototype.authTime = function authTime() { return this.loginTs - 3600; };
  }
  return provider.callback();
}

let answer; // of the provider as configured last
let issuer;

async function listen(config) {
  const server = createServer({ key: config.key, cert: config.cert }, (req, res) => answer(req, res));
  await new Promise((resolve) => { server.listen(0, config.host, resolve); });
  return `https://${config.host}:${server.address().port}`;
}

for await (const line of createInterface({ input: process.stdin })) {
  const config = JSON.parse(line);
  skew = config.skew_ms;
  issuer ??= await listen(config);
  // A change of clock alone keeps the sessions.
  if (!config.keep) answer = make(config, issuer);
  console.log(JSON.stringify({ issuer }));
}
process.exit(0);
