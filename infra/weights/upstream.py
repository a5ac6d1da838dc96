"""asset://: an asset of Dagster made the weights, and its last materialisation says where they lie.

    path      a folder on this machine, absolute, or an address: file://, s3://, hf://
    digest    what lies there, for who wants it compared: the manifest's hash, or the commit of a Hub's repository; may be left out

Whoever knows Dagster reads the materialisation; here it becomes an address that the other sources understand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from infra.errors import ConfigError
from infra.weights.declared import parse
from infra.weights.glance import Glance
from infra.weights.manifest import Seen

GIVE = 'let it return dg.MaterializeResult(metadata={"path": "/folder/of/this/run", "digest": "…"}), and materialise it again'


@dataclass(frozen=True)
class Made:
    """One materialisation. `number`: Dagster's own of this event; `run`: whose it is, empty when it was only reported; `facts`: its metadata, plain."""

    key: str
    number: int
    run: str
    facts: Mapping[str, object]

    @property
    def told(self) -> str:
        return f"asset {self.key}, as {f'run {self.run[:8]} made it' if self.run else 'it was reported'},"


@dataclass(frozen=True)
class Upstream:
    """Where the weights of one materialisation lie. `digest` None: it promised nothing about them."""

    made: Made
    address: str
    digest: str | None

    def glanced(self, found: Glance) -> Glance:
        """What the address says, beside which materialisation named it: another one is looked at, also where the address is the same."""
        return replace(found, of=self._mark + found.of)

    def before(self, last: Glance | None) -> Glance | None:
        """What the address said at the last look; None: another materialisation named it."""
        return replace(last, of=last.of.removeprefix(self._mark)) if last and last.of.startswith(self._mark) else None

    def confirmed(self, seen: Seen) -> Seen:
        """What was seen at the address, when it is what was promised. Raises ConfigError with both values when it is not."""
        if self.digest not in (None, seen.revision, seen.manifest.digest):
            raise ConfigError(
                f"{self.made.told} promised other weights than lie at {self.address}",
                why=f"its digest is {self.digest}, the content's is {seen.manifest.digest}"
                + (f" (revision {seen.revision})" if seen.revision != seen.manifest.digest else ""),
                next="write each run's weights into a folder of its own and leave that alone; then materialise it again",
            )
        return replace(seen, run=self.made.run)

    @property
    def _mark(self) -> str:
        return f"asset://{self.made.key}#{self.made.number} "


def read(made: Made) -> Upstream:
    """The address that a materialisation names. Raises ConfigError when it names none, or a folder that is not there."""
    path, digest = made.facts.get("path"), made.facts.get("digest")
    if not isinstance(path, str) or not path.strip():
        given = ", ".join(sorted(made.facts)) or "nothing"
        raise ConfigError(f"{made.told} does not say where its weights are", why=f"its metadata has no text `path`; it has {given}", next=GIVE)
    if digest is not None and not isinstance(digest, str):
        raise ConfigError(f"{made.told} has a digest that is no text", why=f"it is {digest!r}", next=GIVE)
    return Upstream(made, _address(made, path.strip()), digest.strip().removeprefix("sha256:").lower() if digest else None)


def _address(made: Made, path: str) -> str:
    address = path if "://" in path else f"file://{path}"
    rest = address.removeprefix("file://")
    if address.startswith("asset://"):
        raise ConfigError(f"{made.told} names another asset as its path", why=f"path is {path}", next="declare that asset in the model's YAML instead")
    if rest != address and not rest.startswith("/"):
        raise ConfigError(f"{made.told} names a folder that means another one for everyone", why=f"path is {path}: it does not begin with /", next=GIVE)
    found = parse(address, Path("/"))
    if found.path is not None and not found.path.is_dir():
        raise ConfigError(
            f"the weights of {made.told} are not there", why=f"{'a file' if found.path.exists() else 'nothing'} is at {found.path}",
            next=f"materialise {made.key} again; what was fetched before serves on, and a rollback to it needs no folder",
        )  # fmt: skip
    return found.uri
