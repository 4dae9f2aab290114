#!/usr/bin/env python3
"""Reads the test vectors of delegation.md with nothing of Signet's code: Python's standard library, and openssl for signatures.

    read_vectors.py DIRECTORY    (testdata/delegation)

Exits with 0 if it accepts, refuses (and where the vectors say so, for the same reason) and computes what they say, else with 1.
It is written from the page, as a second implementation would be, and as short as that can be.
"""
import base64
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import unicodedata


def oid_der(text):
    first, second, *rest = (int(p) for p in text.split("."))
    out = bytearray()
    for n in [first * 40 + second, *rest]:
        part = [n & 0x7F]
        while n := n >> 7:
            part.insert(0, n & 0x7F | 0x80)
        out += bytes(part)
    return bytes(out)


OID = oid_der("1.2.840.113556.1.8000.2554.27687.29834.27655.16587.39789.4042046.12651941")


class Refused(Exception):
    """Refused(code): the code is one of the check "format" where a caller looks at it."""


def need(condition, code):
    if not condition:
        raise Refused(code)


# --- scope -----------------------------------------------------------------------------------------------------------

SEGMENT = r"[\x21\x23-\x29\x2b-\x39\x3b-\x5b\x5d-\x7e]+"
TOKEN = re.compile(rf"{SEGMENT}(:{SEGMENT})*(:\*)?", re.ASCII)


def check_scope(tokens):
    need(1 <= len(tokens) <= 64 and len(set(tokens)) == len(tokens), "scope_invalid")
    for t in tokens:
        need(TOKEN.fullmatch(t) and len(t) <= 256, "scope_invalid")
    return tokens


def covers(parent, child):
    return parent == child or parent.endswith(":*") and child.startswith(parent[:-1])


def within(child, parent):
    return all(any(covers(p, c) for p in parent) for c in child)


# --- SPIFFE IDs ------------------------------------------------------------------------------------------------------

NAME = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]{1,64}"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
ID = re.compile(rf"spiffe://([a-z0-9_-]+(?:\.[a-z0-9_-]+)*)/(?:(orchestrator|service|operator)/{NAME}|(agent)/({NAME})/({UUID}))", re.ASCII)


def check_id(text):
    """Returns (trust domain, kind, agent type, UUID)."""
    m = ID.fullmatch(text)
    need(m and len(m[1]) <= 255 and not m[1].split(".")[-1].isdigit(), "hop_id_invalid")
    return m[1], m[2] or m[3], m[4], m[5]


# --- the extension ---------------------------------------------------------------------------------------------------


class DER:
    """Strict: definite, minimal lengths."""

    def __init__(self, data):
        self.data = data

    def peek(self):
        return self.data[0] if self.data else None

    def read(self, tag, code="der_malformed"):
        d = self.data
        need(len(d) >= 2 and d[0] == tag, code)
        n, at = d[1], 2
        if n >= 0x80:
            count = n & 0x7F
            need(1 <= count <= 4 and len(d) >= 2 + count, "der_malformed")
            n, at = int.from_bytes(d[2 : 2 + count], "big"), 2 + count
            need(n >= 0x80 and n >= 1 << 8 * (count - 1), "der_malformed")
        need(len(d) >= at + n, "der_malformed")
        self.data = d[at + n :]
        return d[at : at + n]

    def end(self):
        need(not self.data, "der_trailing")


def integer(r, tag=0x02, code="der_integer"):
    b = r.read(tag)
    need(len(b) == 1, code)
    return int.from_bytes(b, "big", signed=True)


def octets(r, size, code, tag=0x04):
    b = r.read(tag)
    need(len(b) == size and any(b), code)
    return b


def text(r, limit):
    b = r.read(0x0C)
    try:
        s = b.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("text_invalid") from None
    need(1 <= len(b) <= limit and not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in s), "text_invalid")
    return s


def limits(r):
    """scope, notAfter, maxDepth, which a grant and a hop have alike."""
    inner, tokens = DER(r.read(0x30)), []
    while inner.data:
        tokens.append(inner.read(0x0C).decode("utf-8", "surrogateescape"))
    check_scope(tokens)
    stamp = r.read(0x18).decode("ascii", "replace")
    need(re.fullmatch(r"[0-9]{14}Z", stamp), "time_invalid")
    try:
        when = datetime.datetime.strptime(stamp, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        raise Refused("time_invalid") from None
    need(when.timestamp() > 0 and stamp[12:14] != "60", "time_invalid")
    return {"scope": tokens, "not_after": when, "max_depth": integer(r)}


def parse_extension(der):
    need(len(der) <= 12 << 10, "extension_too_large")
    outer = DER(der)
    r = DER(outer.read(0x30))
    outer.end()
    need(integer(r) == 1, "version_unknown")
    out = {"task_id": octets(r, 16, "identifier_invalid")}
    g = DER(r.read(0x30))
    out["grant"] = {"issuer": text(g, 512), "subject": text(g, 255), "grant_id": octets(g, 16, "identifier_invalid")}
    consent = integer(g, 0x0A, "der_malformed")
    need(1 <= consent <= 4, "consent_type_unknown")
    out["grant"] |= {"consent": consent, "evidence": octets(g, 32, "hash_invalid"), **limits(g)}
    g.end()
    hops, out["hops"] = DER(r.read(0x30)), []
    while hops.data:
        h = DER(hops.read(0x30))
        hop = {"id": h.read(0x0C).decode("utf-8", "replace"), "spki": octets(h, 32, "hash_invalid"), **limits(h)}
        hop["confirmation"] = octets(h, 32, "hash_invalid", 0x80) if h.peek() == 0x80 else None
        h.end()
        out["hops"].append(hop)
    need(2 <= len(out["hops"]) <= 10, "hop_count")
    r.end()
    for i, hop in enumerate(out["hops"]):
        domain, kind, hop["type"], _ = check_id(hop["id"])
        need(kind == ("agent" if i else "orchestrator"), "hop_kind")
        need(domain == check_id(out["hops"][0]["id"])[0], "hop_trust_domain")
    need(out["hops"][0]["confirmation"] is None, "orchestrator_confirmation")
    return out


# --- JSON: the grant and the delegator's statement ---------------------------------------------------------------------


def b64(s, size=None):
    need(isinstance(s, str) and re.fullmatch(r"[A-Za-z0-9_-]*", s, re.ASCII), "base64url")
    try:
        out = base64.urlsafe_b64decode(s + "=" * (-len(s) % 4))
    except ValueError:
        raise Refused("base64url") from None
    need(base64.urlsafe_b64encode(out).rstrip(b"=").decode() == s and size in (None, len(out)), "base64url")
    return out


def digest(s):
    out = b64(s, 32)
    need(any(out), "zero")
    return out


def members(data, **types):
    """One JSON object with exactly these members, each once."""

    def once(pairs):
        need(len(dict(pairs)) == len(pairs), "duplicate member")
        return dict(pairs)

    try:
        out = json.loads(data, object_pairs_hook=once)
        json.dumps(out, ensure_ascii=False).encode("utf-8")  # no lone surrogates
    except ValueError:
        raise Refused("json") from None
    need(isinstance(out, dict) and out.keys() == types.keys(), "members")
    for name, kind in types.items():
        need(type(out[name]) is kind, name)  # a bool is no int here
    return out


def uuid7(s):
    need(re.fullmatch(UUID, s, re.ASCII), "uuid")


def plain(s, limit=256):
    need(1 <= len(s) <= limit and all("!" <= c <= "~" for c in s), "text")


def spoken(s, limit):
    need(1 <= len(s.encode()) <= limit and not any(unicodedata.category(c) == "Cc" for c in s), "text")


def parse_grant(document):
    data = document.encode("utf-8", "surrogatepass")
    g = members(
        data.decode("utf-8", "replace"), v=int, grant_id=str, random=str, origin=str, issuer=str, client_id=str, subject=str, task_id=str,
        task=str, scope=list, max_depth=int, not_after=str, agent_types=list, orchestrator=str, orchestrator_key=str,
    )
    canonical = json.dumps(g, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    need(len(data) <= 32 << 10 and data == canonical, "canonical")
    need(g["v"] == 1 and 1 <= g["max_depth"] <= 8, "number")
    uuid7(g["grant_id"]), uuid7(g["task_id"])
    digest(g["random"]), digest(g["orchestrator_key"])
    plain(g["origin"]), spoken(g["issuer"], 512), spoken(g["client_id"], 255), spoken(g["subject"], 255)
    need(1 <= len(g["task"]) <= 256, "task")
    need(all(c == " " or unicodedata.category(c)[0] in "LMNPS" for c in g["task"]), "task")
    check_scope(g["scope"])
    need(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", g["not_after"], re.ASCII), "not_after")
    types = g["agent_types"]
    need(1 <= len(types) <= 32 and len(set(types)) == len(types) and all(re.fullmatch(NAME, t, re.ASCII) for t in types), "agent_types")
    need(check_id(g["orchestrator"])[1] == "orchestrator", "orchestrator")
    return hashlib.sha256(data).digest()


ALGORITHMS = {  # by the SubjectPublicKeyInfo's beginning
    "302a300506032b6570": "EdDSA",
    "3059301306072a8648ce3d020106082a8648ce3d030107": "ES256",
    "3076301006072a8648ce3d020106052b81040022": "ES384",
}


def check_signature(alg, spki, signed, signature):
    size = {"EdDSA": 64, "ES256": 64, "ES384": 96}[alg]
    need(len(signature) == size, "signature")
    command = ["openssl", "dgst", "-sha" + alg[2:]]
    if alg == "EdDSA":
        command = ["openssl", "pkeyutl", "-rawin"]
    else:
        signature = b"".join(der_uint(signature[i : i + size // 2]) for i in (0, size // 2))
        signature = b"\x30" + (b"\x81" if len(signature) > 127 else b"") + bytes([len(signature)]) + signature
    with tempfile.TemporaryDirectory() as d:
        for name, data in {"key": spki, "signed": signed, "signature": signature}.items():
            with open(os.path.join(d, name), "wb") as f:
                f.write(data)
        if alg == "EdDSA":
            command += ["-verify", "-pubin", "-keyform", "DER", "-inkey", "key", "-sigfile", "signature", "-in", "signed"]
        else:
            command += ["-keyform", "DER", "-verify", "key", "-signature", "signature", "signed"]
        run = subprocess.run(command, cwd=d, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    need(run.returncode == 0 and b"erifi" in run.stdout, "signature")


def der_uint(b):
    b = b.lstrip(b"\0") or b"\0"
    return bytes([2, len(b) + (b[0] >> 7)]) + (b"\0" if b[0] >> 7 else b"") + b


def parse_compact(jws, typ, limit, spki):
    need(len(jws) <= limit and jws.count(".") == 2, "compact")
    header, payload, signature = jws.split(".")
    alg = next((a for prefix, a in ALGORITHMS.items() if spki.hex().startswith(prefix)), None)
    h = members(decode(header), alg=str, typ=str)
    need(h["typ"] == typ and h["alg"] == alg, "header")
    check_signature(alg, spki, f"{header}.{payload}".encode(), b64(signature))
    return decode(payload)


def parse_rekey(jws, spki):
    c = members(
        parse_compact(jws, "agent-rekey+jwt", 4 << 10, spki), iss=str, aud=str, task_id=str, iat=int, exp=int, old_jkt=str, cnf=dict
    )
    need(check_id(c["iss"])[1] == "agent", "iss")
    plain(c["aud"]), uuid7(c["task_id"])
    need(0 < c["iat"] < c["exp"] < 253402300800, "number")
    need(c["cnf"].keys() == {"jkt"}, "cnf")
    need(digest(c["old_jkt"]) == thumbprint(spki) != digest(c["cnf"]["jkt"]), "key")
    return c


def parse_enrolment(jws, spki, token):
    cnf = parse_statement(jws, spki)["cnf"]
    b64(token, 32)
    need("enrol" in cnf and b64(cnf["enrol"]) == hashlib.sha256(token.encode()).digest(), "enrol")


def parse_statement(jws, spki):
    c = members(
        parse_compact(jws, "agent-delegation+jwt", 16 << 10, spki), iss=str, sub=str, aud=str, jti=str, task_id=str, scope=str, iat=int, exp=int, del_max_depth=int, par_hash=str, cnf=dict
    )
    iss, sub = check_id(c["iss"]), check_id(c["sub"])
    need(iss[1] in ("orchestrator", "agent") and sub[1] == "agent" and iss[0] == sub[0] and c["iss"] != c["sub"], "parties")
    need(c["jti"] == sub[3], "jti")
    plain(c["aud"]), uuid7(c["task_id"]), digest(c["par_hash"])
    check_scope(c["scope"].split(" "))
    need(0 < c["iat"] < c["exp"] < 253402300800 and 0 <= c["del_max_depth"] <= 7, "number")
    need(len(c["cnf"]) == 1 and c["cnf"].keys() <= {"jkt", "enrol"}, "cnf")
    digest(*c["cnf"].values())
    return c


def decode(part):
    try:
        return b64(part).decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("utf-8") from None


# --- whole chains ------------------------------------------------------------------------------------------------------


def certificate(pem):
    """Returns the leaf's SubjectPublicKeyInfo, NotBefore, NotAfter, URIs and delegation extensions."""
    der = base64.b64decode(re.search("-----BEGIN CERTIFICATE-----(.*?)-----END", pem, re.DOTALL)[1])
    tbs = DER(DER(DER(der).read(0x30)).read(0x30))
    tbs.read(0xA0), tbs.read(0x02), tbs.read(0x30), tbs.read(0x30)
    validity = DER(tbs.read(0x30))
    not_before, not_after = (datetime.datetime.strptime(validity.read(0x17).decode() + "+0000", "%y%m%d%H%M%SZ%z") for _ in range(2))
    tbs.read(0x30)
    before = tbs.data
    tbs.read(0x30)
    spki = before[: len(before) - len(tbs.data)]
    uris, found, extensions = [], [], DER(DER(tbs.read(0xA3)).read(0x30))
    while extensions.data:
        e = DER(extensions.read(0x30))
        oid = e.read(0x06)
        if e.peek() == 0x01:
            e.read(0x01)
        value = e.read(0x04)
        if oid == b"\x55\x1d\x11":
            names = DER(DER(value).read(0x30))
            while names.data:
                uris.append(names.read(0x86).decode())
        if oid == OID:
            found.append(value)
    return spki, not_before, not_after, uris, found


def judge(v):
    """Evaluates what needs no path building, in the words of the vectors."""
    spki, not_before, not_after, uris, found = certificate(v["chain"])
    at = datetime.datetime.fromisoformat(v["at"].replace("Z", "+00:00"))
    if len(found) != 1:
        return {"format": "fail:extension_missing"}
    d = parse_extension(found[0])
    hops, grant, out = d["hops"], d["grant"], {"format": "pass"}

    def say(check, *pairs):
        out[check] = next(("fail:" + code for code, wrong in pairs if wrong), "pass")

    links = list(zip([grant, *hops], hops))
    say("binding", ("binding_id_mismatch", uris != [hops[-1]["id"]]), ("binding_key_mismatch", hashlib.sha256(spki).digest() != hops[-1]["spki"]))
    user = v.get("expect_user")
    if user:
        say("principal", ("principal_mismatch", (user["Issuer"], user["Subject"]) != (grant["issuer"], grant["subject"])))
    say("attenuation", ("hop_scope_exceeds", not all(within(h["scope"], p["scope"]) for p, h in links)))
    say(
        "deadline",
        ("hop_deadline_exceeds", any(h["not_after"] > p["not_after"] for p, h in links)),
        ("certificate_deadline_mismatch", not_after != hops[-1]["not_after"]),
        ("not_yet_valid", at < not_before),
        ("deadline_passed", at >= not_after),
    )
    falls = [h["max_depth"] <= p["max_depth"] - (i > 0) and h["max_depth"] >= 0 for i, (p, h) in enumerate(links)]
    twice = len({h["id"] for h in hops}) < len(hops) or len({h["spki"] for h in hops}) < len(hops)
    say("depth", ("hop_depth_exceeds", not all(falls) or grant["max_depth"] > 8 or twice))
    if "required_scope" in v:
        say("scope", ("scope_not_covered", not within(v["required_scope"], hops[-1]["scope"])))
    if v.get("delegations"):
        out["confirmation"] = confirmed(v, d, spki)
    return out


def thumbprint(spki):
    """RFC 7638, of a P-256 or (RFC 8037) an Ed25519 key."""
    if spki.hex().startswith("302a300506032b6570"):
        x = base64.urlsafe_b64encode(spki[-32:]).rstrip(b"=").decode()
        return hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'.encode()).digest()
    point = spki[-64:]
    x, y = (base64.urlsafe_b64encode(p).rstrip(b"=").decode() for p in (point[:32], point[32:]))
    return hashlib.sha256(f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'.encode()).digest()


def confirmed(v, d, leaf):
    keys, parent = [bytes.fromhex(k) for k in v["keys"]] + [leaf], parse_grant(v["grant_document"])
    for i, hop in enumerate(d["hops"][1:], 1):
        jws, above = v["delegations"][i], d["hops"][i - 1]
        if hashlib.sha256(jws.encode()).digest() != hop["confirmation"]:
            return "fail:confirmation_hash_mismatch"
        need(hashlib.sha256(keys[i - 1]).digest() == above["spki"], "key")
        c = parse_statement(jws, keys[i - 1])
        need((c["iss"], c["sub"]) == (above["id"], hop["id"]) and within(hop["scope"], c["scope"].split(" ")), "statement")
        need(c["task_id"].replace("-", "") == d["task_id"].hex() and hop["not_after"].timestamp() <= c["exp"], "statement")
        need(hop["max_depth"] <= c["del_max_depth"] and b64(c["par_hash"]) == parent and b64(c["cnf"]["jkt"]) == thumbprint(keys[i]), "statement")
        parent = hop["confirmation"]
    return "pass"


# --- the files -----------------------------------------------------------------------------------------------------------


def verdict(function, *arguments):
    """Returns what the function returns and "", or None and why it refuses."""
    try:
        return function(*arguments), ""
    except Refused as e:
        return None, str(e)


def run(directory):
    wrong, count = [], 0

    def check(file, name, got, want):
        nonlocal count
        count += 1
        if got != want:
            wrong.append(f"{file}: {name}: {got!r}, the vector says {want!r}")

    def load(name):
        with open(os.path.join(directory, name), encoding="utf-8") as f:
            return json.load(f)

    scope = load("scope.json")
    for v in scope["tokens"]:
        check("scope.json", v["token"], verdict(check_scope, [v["token"]])[1] == "", v["valid"])
    for v in scope["covers"]:
        check("scope.json", f"{v['parent']} covers {v['child']}", covers(v["parent"], v["child"]), v["covers"])
    for v in load("spiffe-id.json"):
        got, why = verdict(check_id, v["id"])
        check("spiffe-id.json", v["id"], (why == "", got[1] if got else None), (v["valid"], v.get("kind")))
    for v in load("extension.json"):
        check("extension.json", v["name"], verdict(parse_extension, bytes.fromhex(v["der"]))[1], v.get("code", ""))
    for v in load("grant.json"):
        got, why = verdict(parse_grant, v["document"])
        check("grant.json", v["name"], (why == "", got.hex() if got else None), (v["valid"], v.get("sha256")))
    for v in load("delegation-jws.json"):
        check("delegation-jws.json", v["name"], verdict(parse_statement, v["jws"], bytes.fromhex(v["key"]))[1] == "", v["valid"])
    for v in load("rekey-jws.json"):
        check("rekey-jws.json", v["name"], verdict(parse_rekey, v["jws"], bytes.fromhex(v["key"]))[1] == "", v["valid"])
    for v in load("enrolment.json"):
        check("enrolment.json", v["name"], verdict(parse_enrolment, v["jws"], bytes.fromhex(v["key"]), v["token"])[1] == "", v["valid"])
    for v in load("verify.json")["vectors"]:
        for name, got in judge(v).items():
            check("verify.json", f"{v['name']}: {name}", got, v["checks"][name])
    return wrong, count


if __name__ == "__main__":
    problems, checked = run(sys.argv[1])
    for problem in problems:
        print(problem)
    print(f"{checked} vectors, {len(problems)} disagreements")
    sys.exit(1 if problems or checked < 200 else 0)
