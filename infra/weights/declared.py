"""Declared: the `weights:` line of a model's YAML, read. Pure: no network, no look at the disk.

hf://org/name[@branch|tag|commit]     a repository of the Hub; without @ its main branch is followed
s3://bucket/prefix                    a folder in a bucket
file://path                           a folder, relative to the file that says so
asset://key                           what another asset makes
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from infra.errors import ConfigError

Scheme = Literal["file", "hf", "s3", "asset"]
FORMS = "hf://org/name[@branch|tag|commit] · s3://bucket/prefix · file://path (relative to this file) · asset://key"


@dataclass(frozen=True)
class Declared:
    """One address of weights; which of the parts are set depends on `scheme`.

    repo, revision   hf: "org/name"; branch, tag or commit, None = the default branch
    bucket, prefix   s3: without slashes at the ends; the prefix may be empty
    path             file: absolute, without '..'
    key              asset: its key, with slashes
    """

    uri: str
    scheme: Scheme
    repo: str | None = None
    revision: str | None = None
    bucket: str | None = None
    prefix: str | None = None
    path: Path | None = None
    key: str | None = None

    @property
    def fixed(self) -> bool:
        """Names one commit for ever: there is no need to ask the source again which one."""
        return bool(COMMIT.fullmatch(self.revision or ""))

    def at(self, revision: str) -> Declared:
        """The same repository at another branch, tag or commit."""
        if self.scheme != "hf":
            raise ConfigError(
                f"{self.uri} has no revisions to choose from",
                why="only hf:// sources have branches, tags and commits",
                next="leave the revision away, or declare another path",
            )
        return parse(f"hf://{self.repo}@{revision}", Path("/"))

    def __str__(self) -> str:
        return self.uri


def parse(uri: str, base: Path) -> Declared:
    """Reads an address. Raises ConfigError with the nearest form that would be right."""
    scheme, found, rest = uri.strip().partition("://")
    if not found or scheme not in get_args(Scheme):
        raise _wrong(
            uri, f"{scheme + '://' if found else 'no scheme'!r} is not one of hf://, s3://, file://, asset://", _guess(uri.strip())
        )
    return {"hf": _hub, "s3": _bucket, "file": _folder, "asset": _asset}[scheme](uri.strip(), rest, base)


COMMIT = re.compile(r"[0-9a-f]{40}")
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
ASSET = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")


def _hub(uri: str, rest: str, base: Path) -> Declared:
    repo, at, revision = rest.partition("@")
    names = repo.strip("/").split("/")
    if len(names) != 2:
        longer = names[0] in ("models", "huggingface.co", "hf.co") and len(names) >= 3
        raise _wrong(uri, f"{repo!r} is not org/name", "hf://" + "/".join(names[1:3]) if longer else None)
    for name in names:
        if not NAME.fullmatch(name) or "--" in name or ".." in name:
            raise _wrong(uri, f"{name!r} can't be a name on the Hub: letters, digits, '-', '_' and '.', no '--' and no '..'")
    if at and (not REVISION.fullmatch(revision) or ".." in revision):
        raise _wrong(uri, f"{revision!r} is no branch, tag or commit", f"hf://{'/'.join(names)}")
    commit = revision.lower() if COMMIT.fullmatch(revision.lower()) else revision
    return Declared(f"hf://{'/'.join(names)}" + (f"@{commit}" if at else ""), "hf", repo="/".join(names), revision=commit or None)


def _bucket(uri: str, rest: str, base: Path) -> Declared:
    bucket, _, prefix = rest.partition("/")
    if not BUCKET.fullmatch(bucket) or ".." in bucket:
        nearest = f"s3://{bucket.lower().replace('_', '-')}/{prefix}".rstrip("/")
        raise _wrong(uri, f"{bucket!r} can't be a bucket: 3 to 63 of a-z, 0-9, '.' and '-'", nearest if bucket else None)
    clean = prefix.strip("/")
    if "//" in clean or "@" in prefix:
        raise _wrong(
            uri,
            "the prefix has an empty part, or a revision, which S3 does not have",
            f"s3://{bucket}/" + re.sub("/+", "/", clean).split("@")[0],
        )
    return Declared(f"s3://{bucket}/{clean}".rstrip("/"), "s3", bucket=bucket, prefix=clean)


def _folder(uri: str, rest: str, base: Path) -> Declared:
    if not rest.strip("/. ") and not rest.startswith(".."):
        raise _wrong(uri, "it names no folder", "file://weights/v1")
    if rest.startswith("~"):
        raise _wrong(uri, "'~' is not expanded: it would mean another folder for everyone", "file://weights/v1")
    return Declared(uri, "file", path=Path(os.path.normpath(base.absolute() / rest)))


def _asset(uri: str, rest: str, base: Path) -> Declared:
    if not ASSET.fullmatch(rest):
        raise _wrong(uri, f"{rest!r} is not an asset key: words of letters, digits, '_', '.' and '-', joined by '/'")
    return Declared(uri, "asset", key=rest)


def _guess(uri: str) -> str | None:
    if page := re.fullmatch(r"(?:https?://)?(?:huggingface\.co|hf\.co)/([^/\s]+/[^/\s]+)(?:/tree/([^/\s]+))?/?", uri):
        return f"hf://{page[1]}" + (f"@{page[2]}" if page[2] and page[2] != "main" else "")
    scheme, colon, rest = uri.partition(":")
    near = difflib.get_close_matches(scheme.lower(), [*get_args(Scheme), "huggingface", "hub"], 1, 0.5) if colon else []
    if near:
        return f"{'hf' if near[0] in ('huggingface', 'hub') else near[0]}://{rest.lstrip('/')}"
    if uri.startswith(("./", "../", "/")):
        return f"file://{uri}"
    return f"hf://{uri}" if uri.count("/") == 1 else None


def _wrong(uri: str, why: str, nearest: str | None = None) -> ConfigError:
    return ConfigError(
        f"weights: {uri!r} is not an address of weights", why=why, next=f"did you mean {nearest} ?" if nearest else f"write one of: {FORMS}"
    )
