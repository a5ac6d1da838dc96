"""The code of a pod of weights as one zip archive: `inside/` and the modules of ours that it uses, which need the standard library only.

Python runs such an archive by its `__main__`. The same sources always make the same bytes.
"""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

INFRA = Path(__file__).resolve().parents[1]

MODULES = (
    "errors", "waiting", "weights/disk", "weights/digest", "weights/hub_errors", "weights/inspect", "weights/manifest", "weights/parallel",
    "kubernetes/inside/hub", "kubernetes/inside/main", "kubernetes/inside/order", "kubernetes/inside/receive", "kubernetes/inside/shelf",
)  # fmt: skip
PACKAGES = ("infra", "infra/weights", "infra/kubernetes", "infra/kubernetes/inside")
"""Empty there: what these import here needs more than the standard library."""

MAIN = "import sys\nfrom infra.kubernetes.inside.main import main\nsys.exit(main(sys.argv[1:]))\n"
EPOCH = (2020, 1, 1, 0, 0, 0)


@cache
def archive() -> bytes:
    """About 30 KB."""
    files = {"__main__.py": MAIN} | {f"{package}/__init__.py": "" for package in PACKAGES}
    files |= {f"infra/{module}.py": (INFRA / f"{module}.py").read_text() for module in MODULES}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, text in sorted(files.items()):
            made.writestr(zipfile.ZipInfo(name, EPOCH), text, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
