"""Package indexes on loopback, as pip asks them: a page of links per project. The wheels are made here, a module each."""

from __future__ import annotations

import functools
import http.server
import threading
import zipfile
from pathlib import Path


class Index:
    """Any number of indexes in one server; `url(name)` is what pip is given."""

    def __init__(self, root: Path) -> None:
        self._root = root
        handler = functools.partial(_Quiet, directory=str(root))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, name: str) -> str:
        """The address of one index."""
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def add(self, index: str, project: str, version: str, code: str = "", script: str = "") -> None:
        """Publishes a package of one module; `script` names a console script that calls its `main`."""
        folder = self._root / index / project
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / f"{project}-{version}-py3-none-any.whl", "w") as archive:
            for name, text in _contents(project, version, code, script).items():
                archive.writestr(name, text)
        links = [f'<a href="{wheel.name.replace("+", "%2B")}">{wheel.name}</a>' for wheel in folder.glob("*.whl")]
        (folder / "index.html").write_text("\n".join(links))

    def close(self) -> None:
        """Ends the server."""
        self._server.shutdown()
        self._server.server_close()


def _contents(project: str, version: str, code: str, script: str) -> dict[str, str]:
    info = f"{project}-{version}.dist-info"
    files = {
        f"{project}.py": f"__version__ = {version!r}\n{code}",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if script:
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{script} = {project}:main\n"
    return files | {f"{info}/RECORD": "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server gives it
        pass
