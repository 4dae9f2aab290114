#!/usr/bin/env python3
"""A second verifier of evidence bundles: it follows the pages beside it (bundle.md, log.md, tpm-statements.md) and shares no code with
signet-verify. Usage: verify.py BUNDLE... (directories or tar archives). Python 3.11 with its standard library, and openssl for signatures.
It checks the core: files, manifest, entries, payloads, tree, checkpoint, seals, the TPM's statements, the keys that entry 0 pins, and that each
certificate has its entry. It leaves to signet-verify: trust file, parts of a log, tiles above level 0, paths of certificates, delegation, consent,
policy, revocation, what was erased or not selected (it calls that absent), what prune entries say of archives, logs whose audit key was changed (it refuses them), entries about PCRs that did not change, the EK. The keys are the bundle's own: compare what the last line says with what you know.
Prints "check index file: text" for each failure ("-" where there is none; below seals/ the index is the seal's number), the same behind
"unproven" for what the bundle does not show, and the verdict. Exit status: 0 valid, 1 invalid, 2 unreadable or wrong usage."""
import base64, bisect, collections, datetime, functools, hashlib, hmac, json, os, pathlib, re, shutil, struct, subprocess, sys, tarfile, tempfile
MAX_FILES, CLOCK, SILENCE, ORDERLY = 1 << 22, 10, 600, 256  # CLOCK and SILENCE in seconds; ORDERLY: how far a reset may move the counter
NUM = "(?:0|[1-9][0-9]{0,19})"
LAYOUT = [(re.compile(pattern), limit) for pattern, limit in [  # bundle.md, Files and Bounds
    (r"README\.verify|selection\.json|policy\.txt|log/checkpoint|certs/(root|audit|ak|ak-cert|ek)\.pem|certs/(ak-binding|tpm-keys)\.json|evidence/[^/]+\.json", 256 << 10),
    (rf"certs/(issued/|issuing-){NUM}\.pem|seals/{NUM}\.(txt|quote|quote\.sig|pcrs|nv|nv\.sig)", 256 << 10), (r"MANIFEST\.sha256", 1 << 30),
    (rf"log/tile/[0-9]{{1,2}}/(x[0-9]{{3}}/){{0,5}}[0-9]{{3}}(\.p/{NUM})?", 8 << 10), (rf"entries/{NUM}\.jsonl", 16 << 20), (r"eventlog", 16 << 20),
    (rf"payloads/{NUM}\.jsonl", 88 << 20), (rf"delegators/{NUM}\.jsonl", 5 << 20), (r"policy/[0-9a-f]{64}\.tar\.gz", 64 << 20)]]
TYPES = set("ceremony grant task issue issue_failed issue_unknown token token_failed deny decision revoke redact admin policy device seal prune malformed enrollment alarm act".split())
KEYS = set("v type time code task grant agent parent orchestrator service operator user policy payload_hash body".split())
SEAL = re.compile(rf"signet/seal@v1\n(\S+)\n({NUM})\n(.{{44}})\n({NUM})\n([0-9a-f]{{64}})\n({NUM})\n({NUM})\.({NUM})\n(.{{20}})\n")
PAYLOAD = re.compile(f'{{"index":({NUM}),"salt":"([A-Za-z0-9+/=]*)","payload":"([A-Za-z0-9+/=]*)"}}')
QUOTED = re.compile(rb"\x00{3}[\x01-\x10](?:..\x03\x00{3})*\x00\x0b\x03(...)(?:..\x03\x00{3})*\x00\x20(.{32})", re.S)  # other banks: empty
AREA = re.compile(rb"\x00\x23\x00\x0b(.{4})(?:\x00\x00|\x00\x20.{32})\x00\x10\x00\x18\x00\x0b\x00\x03\x00\x10"  # TPMT_PUBLIC of an AK
                  rb"\x00[\x1e-\x20](.{30,32})\x00[\x1e-\x20](.{30,32})", re.S)  # some TPMs leave out zeros in front
P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")  # an SPKI, up to the coordinates
Seal = collections.namedtuple("Seal", "number size root previous digest counter boot time path")
def need(holds, text):
    if not holds:
        raise ValueError(text)
def sha256(data): return hashlib.sha256(data).digest()
def name_of(area): return b"\0\x0b" + sha256(area)  # the TPM's name of a key or an index
def unbase64(text):  # one spelling
    need(base64.b64encode(data := base64.b64decode(text, validate=True)).decode() == text, "base64 in another spelling")
    return data
def moment(text, fraction=""):
    need(re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}" + fraction + "Z", text), "time in another spelling")
    return datetime.datetime.fromisoformat(text).timestamp()
def parse_json(data):
    def pairs(items):
        need(all(re.fullmatch("[a-z0-9_.:/@-]{1,128}", key) for key, _ in items) and len(dict(items)) == len(items), "a key twice, or in other characters")
        return dict(items)
    value = json.loads(data.decode(), object_pairs_hook=pairs, parse_constant=lambda text: need(False, "not JSON"))
    return value if type(value) is dict else need(False, "not an object")
def pem(data):
    need(match := re.fullmatch("-----BEGIN (CERTIFICATE|PUBLIC KEY)-----\n([A-Za-z0-9+/=\n]+)-----END \\1-----\n?", data.decode()), "not one PEM block")
    return base64.b64decode(match[2].replace("\n", ""), validate=True)
def sequence(data, at):  # where the content of a DER SEQUENCE begins and ends
    size, start = data[at + 1], at + 2
    if size >= 0x80:
        size, start = int.from_bytes(data[start:start + size - 0x80], "big"), start + size - 0x80
    need(data[at] == 0x30 and start + size <= len(data), "not DER")
    return start, start + size
def tbs_hash(cert):
    start, end = sequence(cert, 0)
    return sha256(cert[start:sequence(cert, start)[1]]).hex() if end == len(cert) else need(False, "data after the certificate")
@functools.lru_cache(1 << 14)
def signed(key, data, signature):
    need(len(key) == len(P256) + 64 and key.startswith(P256), "the key is not of P-256")
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in (("key", key), ("data", data), ("signature", signature)):
            pathlib.Path(scratch, name).write_bytes(content)
        return subprocess.run("openssl dgst -sha256 -keyform DER -verify key -signature signature data".split(), cwd=scratch, capture_output=True, timeout=60).returncode == 0
def ak_key(area):  # the SPKI of an attestation key, from its public area
    need(match := AREA.fullmatch(area), "not a P-256 key for ECDSA with SHA-256")
    need(int.from_bytes(match[1], "big") & 0xf0032 == 0x50032, "not restricted to what its TPM made, or it can leave the TPM")
    return P256 + match[2].rjust(32, b"\0") + match[3].rjust(32, b"\0")
def tile_path(index, width):
    groups = [group.zfill(3) for group in f"{index:,}".split(",")]
    return "log/tile/0/" + "".join(f"x{group}/" for group in groups[:-1]) + groups[-1] + (f".p/{width}" if width < 256 else "")
class Tree:  # RFC 6962 over leaves that come in order; keeps the roots at some sizes
    def __init__(self, sizes): self.sizes, self.size, self.stack, self.roots = set(sizes), 0, [], {}
    def append(self, leaf):
        self.size, rest = self.size + 1, self.size
        while rest & 1:
            leaf, rest = sha256(b"\1" + self.stack.pop() + leaf), rest >> 1
        self.stack.append(leaf)
        if self.size in self.sizes:
            self.roots[self.size] = functools.reduce(lambda right, left: sha256(b"\1" + left + right), reversed(self.stack))
class Files:  # of a directory or a tar archive: the regular ones at their places and within their bounds. Nothing is extracted, no link followed
    def __init__(self, source):
        self.source, self.sizes, self.offsets = source, {}, {}
        for path, size in self.tar() if os.path.isfile(source) else self.walk("", 0):
            fine = size is not None and any(pattern.fullmatch(path) and size <= limit for pattern, limit in LAYOUT)
            fine = fine and re.fullmatch("[!-9;-[\\]-~]{1,200}", path) and len(self.sizes) < MAX_FILES
            self.sizes.update({path: size}) if fine else self.fail("layout", "-", path, "no regular file, no file of a bundle, or too large")
        need({"MANIFEST.sha256", "log/checkpoint"} & set(self.sizes), "no evidence bundle")
    def tar(self):
        for member in tarfile.open(self.source, "r:"):
            path = member.name.removeprefix("./")
            if not member.isdir():
                fine = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse() and path not in self.offsets
                need(fine and member.size >= 0, f"tar archive refused: {path[:200]!r} is no regular file, or stands twice")
                self.offsets[path] = member.offset_data
                yield path, member.size
    def walk(self, below, depth):
        for entry in os.scandir(os.path.join(self.source, below)):
            if entry.is_dir(follow_symlinks=False) and depth < 12:
                yield from self.walk(below + entry.name + "/", depth + 1)
            else:
                yield below + entry.name, entry.stat().st_size if entry.is_file(follow_symlinks=False) else None
    def read(self, path):
        need(path in self.sizes, "not in the bundle")
        name = self.source if self.offsets else os.path.join(self.source, path)
        with os.fdopen(os.open(name, os.O_RDONLY | os.O_NONBLOCK | (0 if self.offsets else os.O_NOFOLLOW)), "rb") as file:
            file.seek(self.offsets.get(path, 0))
            return file.read(self.sizes[path])
    def lines(self, path, most=256):
        lines = (data := self.read(path)).split(b"\n")
        need(lines.pop() == b"" and b"" not in lines and 0 < len(lines) <= most and b"\r" not in data, "not lines that each end in one LF")
        return lines
class Verifier(Files):  # what goes wrong in a step, in whatever way, is a failure of its check, and the next steps still run
    def __init__(self, path):
        self.failed, self.unproven, self.seals, self.jumps, self.kept, self.absent, self.body, self.values, self.size, self.latest = [], [], [], [], [], [], {}, {}, 0, 0
        self.origin = self.audit = self.ak = self.root = None
        super().__init__(path)
        for check, index, path, function in (("manifest", "-", "MANIFEST.sha256", self.manifest), ("ceremony", 0, "entries/0.jsonl", self.ceremony),
                ("checkpoint", "-", "log/checkpoint", self.checkpoint), ("seal_chain", "-", "seals", self.chain),
                ("entry", "-", "entries", self.entries), ("certificate", "-", "certs", self.recorded)):
            self.step(check, index, path, function)
    def fail(self, *finding): self.failed.append(finding)
    def step(self, check, index, path, function, *arguments):
        try:
            return function(*arguments)
        except Exception as error:  # hostile bytes may provoke any
            self.fail(check, index, path, str(error) if type(error) is ValueError else f"{type(error).__name__} {error}")
    def manifest(self):
        listed = {}
        for line in self.lines("MANIFEST.sha256", MAX_FILES):
            need((match := re.fullmatch("([0-9a-f]{64})  ([!-~]{1,200})", line.decode())) and match[2] not in listed and not re.search(r"MANIFEST|\.\./", match[2]), f"{line[:300]!r}")
            listed[match[2]] = match[1]
        for path in sorted(set(listed) | set(self.sizes) - {"MANIFEST.sha256"}):
            self.step("manifest", "-", path, lambda: need(sha256(self.read(path)).hex() == listed.get(path), "SHA-256 is not the listed one"))
    def ceremony(self):
        entry = parse_json(self.read("entries/0.jsonl").split(b"\n")[0])
        self.body = body = entry["body"]
        self.origin, self.audit, ak, nv = body["origin"], unbase64(body["audit_key"]), unbase64(body["ak_public"]), unbase64(body["nv_public"])
        self.ak_name, self.nv_name, self.pcrs = name_of(ak), name_of(nv), set(map(int, body["pcrs"].removeprefix("sha256:").split(",")))
        need((entry["type"], self.ak_name.hex(), self.nv_name.hex()) == ("ceremony", body["ak_name"], body["nv_name"]), "a name is not that of its area")
        counts = nv[4:6] + nv[10:] == b"\0\x0b\0\0\0\x08" and int.from_bytes(nv[6:10], "big") & 0x240000f0 == 0x24000010
        need(counts and self.pcrs <= set(range(24)), "not an orderly counter, or not PCRs")
        self.ak = ak_key(ak)
    def checkpoint(self):
        text, _, signatures = self.read("log/checkpoint").partition(b"\n\n")
        origin, size, root = text.decode().split("\n")
        need(re.fullmatch(NUM, size) and int(size) <= 1 << 40 and len(unbase64(root)) == 32, "size or root")
        self.size, self.root = int(size), unbase64(root)  # from here on a claim, signed or not
        need(re.fullmatch("(\u2014 \\S+ \\S+\n)+", signatures.decode()) and origin == self.origin, "not a signed note of this log")
        marks = [unbase64(mark) for name, mark in re.findall("\u2014 (\\S+) (\\S+)\n", signatures.decode()) if name == origin]
        ours = [signed(self.audit, text + b"\n", mark[4:]) for mark in marks if mark[:4] == sha256(self.audit)[:4]]
        need(ours and all(ours), "not signed by the audit key")
    def chain(self):
        for n in sorted({int(match[1]) for path in self.sizes if (match := re.match("seals/([0-9]+)", path))}):
            if seal := self.step("seal", n, f"seals/{n}.txt", self.seal, n, f"seals/{n}.txt"):
                self.seals.append(seal)
                for check, path, kind in (("quote", f"seals/{n}.quote", b"\x80\x18"), ("counter", f"seals/{n}.nv", b"\x80\x14")):
                    self.step(check, n, path, self.statement, seal, path, kind, getattr(self, check)) or self.values.pop(n if check == "quote" else 0, None)
        need(self.seals, "there is no seal")
        for before, seal in zip([None] + self.seals, self.seals):
            self.step("seal_chain", seal.number, seal.path, self.link, before or seal._replace(number=0, counter=seal.counter - 1), seal)
        self.step("seal", seal.number, seal.path, need, (seal.size, seal.root) == (self.size, self.root), "not over the checkpoint")
    def seal(self, n, path):
        need((match := SEAL.fullmatch((text := self.read(path)).decode())) and len(unbase64(match[3])) == 32 and max(int(match[i]) for i in (6, 7, 8)) < 1 << 64, "not a seal")
        need(int(match[4]) == n > 0 and (n == 1) == (match[5] == 64 * "0") and match[1] == self.origin, "another number, or of another log")
        return Seal(n, int(match[2]), unbase64(match[3]), match[5], sha256(text), int(match[6]), (int(match[7]), int(match[8])), moment(match[9]), path)
    def statement(self, seal, path, kind, rest):
        data = self.read(path)
        need(data[:6] == b"\xffTCG" + kind and len(data) <= 1024, "not a TPM's, or another type of statement")
        need(data[6:42] == b"\0\x22" + name_of(b"\x40\0\0\x0b" + self.ak_name), "not by the AK of entry 0 in the endorsement hierarchy")
        need(data[42:76] == b"\0\x20" + seal.digest, "not about this seal")
        need(struct.unpack(">II", data[84:92]) == seal.boot and data[92] <= 1, "of another boot than the seal says")
        rest(seal, data[101:])
        return signed(self.ak, data, self.read(path + ".sig")) or need(False, "not signed by the AK")
    def quote(self, seal, data):
        match, values = QUOTED.fullmatch(data), self.read(f"seals/{seal.number}.pcrs")
        need(match and int.from_bytes(match[1], "little") == sum(1 << pcr for pcr in self.pcrs), "not over the PCRs of entry 0")
        need(match[2] == sha256(values) and len(values) == 32 * len(self.pcrs), "not over these values")
        self.values[seal.number] = values
    def counter(self, seal, data):
        need(data == b"\0\x22" + self.nv_name + b"\0\0\0\x08" + struct.pack(">Q", seal.counter), "another index, or not the counter of the seal")
    def link(self, before, seal):
        moved, reset = seal.counter - before.counter - 1, seal.boot[0] > before.boot[0]
        if seal.number != before.number + 1:
            return self.fail("seal_chain", before.number + 1, f"seals/{before.number + 1}.txt", "missing")
        need(seal.previous == before.digest.hex() or seal.number == 1, "does not cite the seal before it")
        need(seal.size >= before.size and seal.time >= before.time and seal.boot >= before.boot, "size, time or boot went back")
        need(reset or moved >= 0, "the counter did not rise")
        if seal.time - before.time > SILENCE: self.unproven.append(("time", seal.number, seal.path, "no heartbeat before it"))
        if reset or moved:
            self.jumps.append((before.size, seal, "tpm_reset" if reset else "counter_gap", abs(moved)))
    def entries(self):
        chunks, tree, wrong = -(-self.size // 256), Tree({seal.size for seal in self.seals} | {self.size}), []
        need(0 < chunks <= len(self.sizes), "no tree of that size is here")
        for n in range(chunks):
            path, tile = f"entries/{n}.jsonl", tile_path(n, width := min(256, self.size - 256 * n))
            hashes = self.step("tile", 256 * n, tile, self.tile, tile, width) or [None] * width
            leaves = self.chunk(256 * n, path, hashes) if path in self.sizes else self.absent.append((256 * n, path))
            for i, (said, leaf) in enumerate(zip(hashes, leaves or hashes)):
                tree.append(leaf or said or bytes(32))
                wrong += [(256 * n + i, tile, path)] if leaf and said and leaf != said else []
        true = tree.roots[self.size] == self.root
        self.step("checkpoint", "-", "log/checkpoint", need, true, "its root is not that of the entries")
        for index, tile, path in wrong:  # who leads to the signed root is right
            self.fail(*("tile", index, tile) if true else ("entry", index, path), "entry and tile differ")
        for path, n in [(path, int(match[2])) for path in self.sizes if (match := re.match("(entries|payloads|delegators)/([0-9]+)", path))]:
            self.step("entry", 256 * n, path, need, n < chunks, "beyond the sealed tree")
        for seal in self.seals:
            self.step("seal_root", seal.number, seal.path, need, tree.roots.get(seal.size) == seal.root, "not the root of so many leaves")
    def tile(self, path, width):
        need(len(data := self.read(path)) == 32 * width, "not so many hashes")
        return [data[i:i + 32] for i in range(0, len(data), 32)]
    def chunk(self, first, path, tile):  # the leaves of a file of entries, None where there is no line
        payload, leaves = path.replace("entries", "payloads"), [None] * len(tile)
        payloads = payload in self.sizes and self.step("payload", first, payload, self.payloads, payload) or {}
        lines, place = self.step("entry", first, path, self.lines, path) or [], 0
        for line in lines[:len(tile)]:
            leaf = sha256(b"\0" + line)
            place = tile.index(leaf, place) if leaf in tile[place:] else place  # lines before it were taken out
            self.step("entry", first + place, path, self.entry, first + place, path, line, payloads)
            self.step("entry", first + place, path, leaves.__setitem__, place, leaf)
            place += 1
        for i in [i for i, leaf in enumerate(leaves) if lines and not leaf] + [len(tile)] * (len(lines) > len(tile)):
            self.fail("entry", first + i, path, "a line is missing, or one too many")
        for index in payloads: self.fail("payload", index, payload, "no entry commits to it")
        return leaves
    def payloads(self, path):
        found = {}
        for line in self.lines(path):
            need((match := PAYLOAD.fullmatch(line.decode())) and int(match[1]) not in found, "not in the one spelling, or twice")
            found[int(match[1])] = (unbase64(match[2]), unbase64(match[3]))
        return found
    def entry(self, index, path, line, payloads):
        entry, here, paid = parse_json(line), payloads.pop(index, None), f"payloads/{index // 256}.jsonl"
        kind, body, committed = entry["type"], entry.get("body", {}), entry.get("payload_hash")
        need(len(line) < 1 << 16 and set(entry) <= KEYS and repr(entry["v"]) == "1" and kind in TYPES and type(body) is dict, "not an envelope")
        self.step("time", index, path, self.time, index, moment(entry["time"], "[.][0-9]{3}"))
        if committed and not here:
            self.unproven.append(("payload", index, paid, "absent: erased or withheld"))
        elif here and (len(here[0]) != 32 or hmac.digest(*here, "sha256").hex() != committed):
            self.fail("payload", index, paid, "not what the entry commits to")
        if kind in ("ceremony", "device", "seal", "issue", "issue_failed", "issue_unknown", "prune"):  # for later checks
            self.kept.append((kind, index, body))
    def time(self, index, when):
        at = bisect.bisect_right(self.seals, index, key=lambda seal: seal.size)  # the first seal that covers the entry
        floor, self.latest = max([self.latest] + [seal.time for seal in self.seals[:at][-1:]]), max(self.latest, when)
        need(floor - CLOCK <= when and all(when <= seal.time + CLOCK for seal in self.seals[at:at + 1]), "out of order, or not between its seals")
    def change(self, before, seal):  # what the appliance's entry says of a change of PCRs between two seals
        values = [[self.values[s.number][i:i + 32].hex() for i in range(0, 32 * len(self.pcrs), 32)] for s in (before, seal)]
        pcrs = [{"pcr": pcr, "before": was, "after": now} for pcr, was, now in zip(sorted(self.pcrs), *values) if was != now]
        body = {"event": "pcrs_changed" + "_in_boot" * (before.boot == seal.boot), "seal": seal.number, "pcrs": pcrs}
        for key, s in (("expected", before), ("found", seal)): body[key] = {"reset": s.boot[0], "restart": s.boot[1], "counter": s.counter}
        return json.dumps(body, sort_keys=True)
    def recorded(self):
        seals, issues, unsigned = {seal.number: (seal.digest.hex(), seal.size) for seal in self.seals}, {}, {}
        spans = [(body["from"], body["to"], index) for kind, index, body in self.kept if kind == "prune"]
        until, by = max([(to, by) for start, to, by in spans if (start | to) % 256 == 0 <= start < to <= by] or [(0, 0)])  # absent before it: pruned
        for first, path in self.absent:
            fine = 0 < first < until
            (self.unproven if fine else self.failed).append(("prune", first, path, f"by entry {by}") if fine else ("range", first, path, "not in the bundle"))
        for kind, index, body in self.kept:
            path = f"entries/{index // 256}.jsonl"
            if kind == "ceremony": self.step("ceremony", index, path, need, index == 0, "a second ceremony")
            elif kind == "seal":
                fine = seals.get(body["number"]) == (body["digest"], body["size"]) and index >= body["size"]
                self.step("seal_entry", index, path, need, fine, "not the seal that it records, or covered by it")
            elif kind.startswith("issue"):
                issues.update({index: body["tbs_hash"]}) if kind == "issue" else unsigned.update({body["tbs_hash"]: index})
        for start, seal, event, moved in self.jumps:
            noted = sum(start <= index < seal.size and body.get("event") == event for kind, index, body in self.kept if kind == "device")
            fine = noted and (event == "counter_gap" or moved <= ORDERLY * noted) or not noted and self.absent and start < until
            (self.unproven if fine else self.failed).append(("boot", seal.number, seal.path, f"{event}, recorded by {noted} entries"))
        told = {json.dumps(body, sort_keys=True): index for kind, index, body in self.kept if kind == "device"}
        for before, seal, after in zip(self.seals, self.seals[1:], self.seals[2:] + self.seals[-1:]):
            if self.values.get(before.number, now := self.values.get(seal.number)) != now and now and seal.number == before.number + 1:
                fine = seal.size <= told.get(self.change(before, seal), -1) < after.size or seal.size == self.size  # behind which nothing is here
                (self.unproven if fine else self.failed).append(("quote", seal.number, f"seals/{seal.number}.quote", "PCRs changed since the seal before"))
        for check, path, pin in (("certificate", "root.pem", unbase64(self.body["root"])), ("certificate", "audit.pem", self.audit),
                                 ("ak", "ak.pem", self.ak), ("ak", "ak-cert.pem", self.ak)):
            self.step(check, "-", "certs/" + path, lambda: need(pin in pem(self.read("certs/" + path)), "not that of entry 0"))
        pins = {key: self.body[key] for key in ("ak_public", "ak_name", "nv_public", "nv_name")}
        binding = self.step("ak", "-", "certs/ak-binding.json", lambda: parse_json(self.read("certs/ak-binding.json"))) or {}
        self.step("ak", "-", "certs/ak-binding.json", need, pins.items() <= binding.items(), "not of the keys of entry 0")
        for index in [int(match[1]) for path in self.sizes if (match := re.match("certs/issued/([0-9]+)", path))]:
            path, digest = f"certs/issued/{index}.pem", issues.pop(index, None)
            self.step("certificate", index, path, lambda: need(tbs_hash(pem(self.read(path))) == digest, "no issue entry has its TBSCertificate"))
        self.unproven += [("certificate", index, f"certs/issued/{index}.pem", "absent, and no entry says that it was not issued")
                          for index, digest in issues.items() if unsigned.get(digest, 0) < index]
def main(paths, worst=0):
    if not paths or not shutil.which("openssl"): return print("usage: verify.py BUNDLE..., with openssl in PATH") or 2
    for path in paths:
        try:
            found = Verifier(path)
            lines = ["{} {} {}: {}".format(*finding) for finding in found.failed] + ["unproven {} {} {}: {}".format(*f) for f in found.unproven]
            after = f", UNPROVEN what it says of {found.body['previous']}, which it succeeds" if "previous" in found.body else ""; keys = f"{found.size} entries of {found.origin}{after}, audit key {sha256(found.audit or b'').hex()}, AK {found.body.get('ak_name')}"
            lines, worst = lines + [f"{'invalid' if found.failed else 'valid'} {path}: {keys}"], max(worst, bool(found.failed))
        except Exception as error:  # there is no bundle to judge
            lines, worst = [f"unreadable {path}: {error}"], 2
        print("\n".join(line[:600].encode("unicode_escape").decode() for line in lines), flush=True)
    return int(worst)
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
