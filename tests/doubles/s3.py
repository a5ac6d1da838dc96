"""The part of S3 that reads, on loopback: listing in pages, GET with Range and If-Match, HEAD; strict, with faults to switch on.

boto3 talks to it by its `endpoint_url`, with path-style addresses as it uses them for IP addresses. The signature is not checked,
but there has to be one, of a key that the double knows. What it does not know is answered with 400 and kept in `unexpected`.

    with S3() as s3:
        s3.put("models", "tiny/config.json", b"{}")
        Access(aws=s3.aws)
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import threading
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.doubles.loopback import Handler, Served

Kind = Literal["truncate", "flip", "status", "stall"]


@dataclass
class Fault:
    """As in the Hub's double; `path` is compared with the object's key."""

    kind: Kind
    path: str = "*"
    times: int = 1
    after: int = 0
    status: int = 503
    code: str = "SlowDown"


@dataclass(frozen=True)
class Object:
    content: bytes
    etag: str
    version: str
    encryption: str = "AES256"


class S3(Served):
    """The double."""

    def __init__(self, page: int = 1000) -> None:
        super().__init__(_Handler)
        self.page = page
        self.key, self.secret = "AKIADOUBLEDOUBLE", "double-secret"
        self.buckets: dict[str, dict[str, Object]] = {}
        self.forbidden: set[str] = set()
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str | None]] = []
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return self.url

    @property
    def aws(self) -> dict[str, str]:
        """The variables that lead a client here."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }

    def put(self, bucket: str, key: str, content: bytes, *, parts: int = 1, encryption: str = "AES256") -> None:
        """An object. In more than one part, or under KMS, its ETag is no md5 of the content; nor is it on S3."""
        etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if parts > 1:
            etag = f"{hashlib.md5(etag.encode(), usedforsecurity=False).hexdigest()}-{parts}"
        if encryption != "AES256":
            etag = hashlib.md5(b"kms" + content, usedforsecurity=False).hexdigest()
        there = self.buckets.setdefault(bucket, {})
        there[key] = Object(content, etag, f"v{len(self.requests)}", encryption)

    def fault(self, kind: Kind, path: str = "*", **more: object) -> Fault:
        fault = Fault(kind, path, **more)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def take(self, key: str, kinds: tuple[Kind, ...]) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fault.kind in kinds and fnmatch.fnmatch(key, fault.path):
                    fault.times -= 1
                    return fault
        return None


class _Handler(Handler[S3]):
    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        s3, url = self.double, urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        s3.requests.append((self.command, f"{bucket}/{key}", self.headers.get("Range")))
        signed = re.match(r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/[^/]+/s3/aws4_request", self.headers.get("Authorization", ""))
        if not signed:
            return self._refuse(403, "AccessDenied")
        if signed[1] != s3.key:
            return self._refuse(403, "InvalidAccessKeyId")
        if bucket not in s3.buckets:
            return self._refuse(404, "NoSuchBucket")
        if bucket in s3.forbidden:
            return self._refuse(403, "AccessDenied")
        if fault := s3.take(key, ("status",)):
            return self._refuse(fault.status, fault.code)
        query = parse_qs(url.query, keep_blank_values=True)
        if key:
            return self._object(s3.buckets[bucket].get(key), key)
        if query.get("list-type") == ["2"]:
            return self._list(bucket, query)
        s3.unexpected.append(f"{self.command} {self.path}")
        return self._refuse(400, "NotImplemented")

    def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        there = self.double.buckets[bucket]
        keys = sorted(key for key in there if key.startswith(prefix) and key > after)
        page, more = keys[: self.double.page], len(keys) > self.double.page
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(there[key].content)}</Size><ETag>&quot;{there[key].etag}&quot;</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount><MaxKeys>{self.double.page}</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}</ListBucketResult>"
        )
        self._send(200, body.encode(), {"Content-Type": "application/xml"})

    def _object(self, found: Object | None, key: str) -> None:
        if found is None:
            return self._refuse(404, "NoSuchKey")
        if (match := self.headers.get("If-Match")) and match.strip('"') != found.etag:
            return self._refuse(412, "PreconditionFailed")
        content, headers = (
            found.content,
            {"ETag": f'"{found.etag}"', "x-amz-server-side-encryption": found.encryption, "x-amz-version-id": found.version},
        )
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and int(asked[1]) >= len(content):
            return self._refuse(416, "InvalidRange")
        start = int(asked[1]) if asked else 0
        if asked:
            total, content = len(content), content[: int(asked[2]) + 1] if asked[2] else content
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{total}"
        fault = self.double.take(key, ("truncate", "flip", "stall")) if self.command == "GET" else None
        if fault and fault.kind == "flip":
            content = content[: fault.after] + bytes([content[fault.after] ^ 1]) + content[fault.after + 1 :]
        self._send(206 if asked else 200, content[start:], headers, fault if fault and fault.kind != "flip" else None)

    def _refuse(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message><RequestId>1</RequestId></Error>"
        self._send(status, body.encode(), {"Content-Type": "application/xml"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: Fault | None = None) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body)), "x-amz-request-id": "1"}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: fault.after] if fault else body)
        if fault:
            self.close_connection = True
            self.wfile.flush()
        if fault and fault.kind == "stall":
            self.double.closing.wait()
