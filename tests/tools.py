"""Programs that tests run where they are installed: by `make test` in the virtual environment, else on PATH."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

import pytest


def _find(name: str) -> str | None:
    return shutil.which(name, path=str(Path(sys.prefix) / "bin")) or shutil.which(name)


HELM: Final = _find("helm")
KUBECTL: Final = _find("kubectl")

needs_helm = pytest.mark.skipif(not HELM, reason="helm is not installed")
needs_kubectl = pytest.mark.skipif(not KUBECTL, reason="kubectl is not installed")
