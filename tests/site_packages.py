"""Virtual environments of real interpreters, with packages in them that were never installed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def environment(folder: Path, python: str = sys.executable) -> Path:
    """Make an empty virtual environment; return where its packages go."""
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    return site


def distribution(site: Path, name: str, version: str) -> None:
    information = site / f"{name}-{version}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
    )


def torch(
    site: Path,
    version: str = "2.9.0",
    *,
    built: str | None = None,
    cuda: str | None = None,
    hip: str | None = None,
    launcher: bool = True,
    metadata: bool = True,
) -> None:
    """Put in what pip would, as far as we look at it. To import any of it is an error."""
    package = site / "torch"
    (package / "distributed").mkdir(parents=True)
    for init in (package, package / "distributed"):
        (init / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "version.py").write_text(
        "from typing import Optional\n\n__all__ = ['__version__', 'debug', 'cuda', 'hip']\n"
        f"__version__ = {built or version!r}\ndebug = False\ncuda: Optional[str] = {cuda!r}\n"
        f"git_version = 'e6c1'\nhip: Optional[str] = {hip!r}\n"
    )
    if launcher:
        (package / "distributed/run.py").write_text("raise SystemExit('imported')\n")
    if metadata:
        distribution(site, "torch", version)
