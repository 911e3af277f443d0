"""`python -m benchmarks.list_compression`: savings and cost of gzip for lists of AppModels of 1 and 10 MB.

The list is what the test API server answers, repeated under other names, uids and versions. It is compressed at level
1, as a kube-apiserver does from 128 KiB on (`defaultGzipContentEncodingLevel`, `defaultGzipThresholdBytes` of its
`responsewriters`). The processor time is that of zlib in this process, in place of a kube-apiserver's.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
import zlib
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.apiserver import ApiServer, app_model

from shmroute.kube.connection import Connection, path_of
from shmroute.resources.registry import APPMODELS
from shmroute.sources.kubernetes.wire import decode_object, decode_page

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main", "measure"]

LEVEL: Final = 1
ROUNDS: Final = 5
GZIP: Final = 31
"""zlib's `wbits` for gzip's format."""


def listed(size: int) -> bytes:
    """Return a list of about that many bytes."""
    dice = random.Random(1)
    with ApiServer() as api, tempfile.TemporaryDirectory() as folder:
        api.apply(app_model("some-app", [f"model-{number}" for number in range(10)]))
        with closing(Connection(str(api.kubeconfig(Path(folder) / "kubeconfig")))) as connection:
            answer = connection.request("GET", path_of(*APPMODELS.api_path, APPMODELS.plural))
    document: dict[str, Any] = json.loads(answer.data)
    [pattern] = document["items"]
    text = json.dumps(pattern, separators=(",", ":"))
    items = []
    for number in range(max(1, size // len(text))):
        names = text.replace("some-app", f"app-{number}").replace("model-", f"model-{dice.getrandbits(24):x}-")
        item = json.loads(names)
        item["metadata"] |= {"uid": f"{dice.getrandbits(128):032x}", "resourceVersion": str(1_000 + number)}
        items.append(item)
    return json.dumps({**document, "items": items}, separators=(",", ":")).encode()


def _milliseconds(work: Callable[[], object]) -> float:
    """Return the least processor time of several rounds."""
    taken = []
    for _ in range(ROUNDS):
        before = time.process_time()
        work()
        taken.append(time.process_time() - before)
    return round(min(taken) * 1e3, 1)


def _compress(body: bytes) -> bytes:
    packer = zlib.compressobj(LEVEL, wbits=GZIP)
    return packer.compress(body) + packer.flush()


def measure(size: int) -> dict[str, float]:
    """Return the bytes and milliseconds for a list of about `size` bytes."""
    body = listed(size)
    packed = _compress(body)

    def read() -> None:
        for raw in decode_page(APPMODELS, body, "list").objects:
            decode_object(APPMODELS, raw)

    return {
        "bytes": len(body),
        "bytes, compressed": len(packed),
        "compress": _milliseconds(lambda: _compress(body)),
        "decompress": _milliseconds(lambda: zlib.decompress(packed, wbits=GZIP)),
        "decode": _milliseconds(read),
    }


def main() -> None:
    """Measure, and print JSON."""
    print(json.dumps({f"{size} MB": measure(size * 1_000_000) for size in (1, 10)}, indent=1))


if __name__ == "__main__":
    main()
