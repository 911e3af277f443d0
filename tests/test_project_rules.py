"""Rules for the whole project: things that must not occur in the code, in the log, or in the repository."""

from __future__ import annotations

import ast
import base64
import http.client
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

import shmroute
from shmroute import Reader
from tests.apiserver import ApiServer, app_model
from tests.processes import bound
from tests.redis_server import RedisServer
from tests.watcher.running import WAIT_SECONDS, wait_for

ROOT = Path(__file__).parents[1]
PACKAGE = Path(shmroute.__file__).parent

RUNS_DATA = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
"""Modules that make code or arbitrary objects of bytes."""

RUNS_TEXT = {"eval", "exec", "compile"}

UNSAFE_YAML = {
    *("load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"),
    *("Loader", "CLoader", "UnsafeLoader", "CUnsafeLoader", "FullLoader", "CFullLoader"),
}
"""Names of PyYAML that make arbitrary objects, or may."""

TOKEN = "a-token-that-nobody-else-has"
PASSWORD = "a-password/that+nobody%else has"


Trees: TypeAlias = dict[str, ast.Module]


@pytest.fixture(scope="module")
def trees() -> Trees:
    """Return path -> syntax tree of every module of the package."""
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_the_package_unpickles_nothing(trees: Trees) -> None:
    assert [(name, found) for name, tree in trees.items() for found in imported(tree) if found in RUNS_DATA] == []


def test_the_package_runs_no_text_as_code(trees: Trees) -> None:
    called = [
        f"{name}:{node.lineno}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RUNS_TEXT
    ]
    assert called == []


def test_shared_memory_takes_structs_from_msgspec_and_decodes_nothing(trees: Trees) -> None:
    shm = [(name, node) for name, tree in trees.items() if name.startswith("shm/") for node in ast.walk(tree)]
    attributes = {
        node.attr
        for _, node in shm
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "msgspec"
    }
    modules = {
        node.module
        for _, node in shm
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "msgspec"
    }
    assert (attributes, modules) == ({"Struct"}, {"msgspec.structs"})


def test_yaml_is_read_by_the_safe_loader_only(trees: Trees) -> None:
    used = {
        (name, node.attr)
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "yaml"
    }
    assert {attribute for _, attribute in used} & UNSAFE_YAML == set()
    assert ("manifests/decoding.py", "SafeLoader") in used


def test_no_subprocess_goes_through_a_shell(trees: Trees) -> None:
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                raise AssertionError(f"{name}:{node.value.lineno}")
            assert not (isinstance(node, ast.Attribute) and node.attr in ("system", "popen")), name


def test_certificates_are_verified_unless_a_kubeconfig_says_otherwise() -> None:
    """`insecure-skip-tls-verify` is honoured in one place; tests/kube show that only a true one is."""
    pattern = r"CERT_NONE|verify_ssl\s*=\s*False|check_hostname\s*=\s*False"
    files = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if re.search(pattern, path.read_text())}
    assert files == {"kube/configuration.py"}


# -- what is logged


def test_neither_tokens_nor_passwords_are_ever_logged_or_shown(area: str, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    said: list[str] = []
    quoted = urllib.parse.quote(PASSWORD, safe="")
    with ApiServer(token=TOKEN) as api, RedisServer(password=PASSWORD) as redis:
        api.apply(app_model("iiot", {"iiot_dataservice": "1"}))
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig", token_file=token_file)
        url = f"redis://:{quoted}@127.0.0.1:{redis.port}/0"
        log = tmp_path / "log"
        command = [sys.executable, "-m", "shmroute", "watch", "-A", "--area", area, "--kubeconfig", str(kubeconfig)]
        command += ["--redis", url, "--log-level", "debug", "--listen", "127.0.0.1:0"]
        with log.open("wb") as output:
            process = subprocess.Popen(bound(command), stdout=subprocess.DEVNULL, stderr=output)
        try:
            with Reader(area) as reader:
                reader.wait_ready(WAIT_SECONDS)
                wait_for(lambda: reader.resolve("iiot_dataservice").metadata_state == "missing")
                # Each of them refused, absent, and garbled.
                rotated = api.auth.rotate()
                redis.kill()
                api.faults.cut_streams()
                wait_for(lambda: "refused" in log.read_text(), 30.0)
                token_file.write_text(rotated)
                api.apply(app_model("iiot", {"iiot_dataservice": "2"}))
                wait_for(lambda: reader.resolve("iiot_dataservice").version == "2", 60.0)
                api.faults.inject_garbage()
                api.faults.refuse()
                wait_for(lambda: reader.age > 1.0)
            port = int(re.findall(r"the status page on port (\d+)", log.read_text())[0])
            for path in ("/metrics", "/readyz", "/healthz", "/", "/api/status", "/api/history"):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                connection.request("GET", path)
                said.append(connection.getresponse().read().decode())
                connection.close()
            for asked in (
                ("status", "-o", "json"),
                ("explain", "iiot_dataservice"),
                ("get", "metadata", "-o", "json"),
            ):
                finished = subprocess.run(
                    [sys.executable, "-m", "shmroute", *asked, "--area", area],
                    capture_output=True,
                    text=True,
                    timeout=30,
                )
                said += [finished.stdout, finished.stderr]
        finally:
            process.terminate()
            process.wait(WAIT_SECONDS)
        said.append(log.read_text())
        said += [path.read_bytes().decode("latin-1") for path in Path("/dev/shm").glob(f"shmroute-{area}*")]
    everything = "\n".join(said)
    assert "iiot_dataservice" in everything, "there is something to look through"
    for secret in (TOKEN, rotated, PASSWORD, quoted):
        for form in (secret, base64.b64encode(secret.encode()).decode().rstrip("=")):
            assert form not in everything


@pytest.mark.parametrize(
    "arguments",
    [
        ("watch", "--manifests", ".", "--redis", "redis://:{}@127.0.0.1:x/0"),
        ("watch", "--manifests", ".", "--redis", "http://:{}@127.0.0.1/0"),
        ("apply", "app", "--version", "1", "--model", "a=1", "--metadata", ".", "--redis", "nonsense://:{}@h"),
    ],
)
def test_a_refused_url_is_not_shown(arguments: tuple[str, ...], area: str) -> None:
    quoted = urllib.parse.quote(PASSWORD, safe="")
    finished = subprocess.run(
        [sys.executable, "-m", "shmroute", *(each.format(quoted) for each in arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "SHMROUTE_AREA": area},
    )
    assert finished.returncode == 2
    assert finished.stderr != ""
    assert quoted not in finished.stderr
    assert PASSWORD not in finished.stderr


# -- what is in the repository


@pytest.fixture(scope="module")
def tracked() -> dict[str, str]:
    """Return path -> text of every file under version control."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    return {name: (ROOT / name).read_bytes().decode("utf-8", "replace") for name in files}


def test_every_package_names_its_modules() -> None:
    """A newcomer finds a module in the docstring of its package, or among the imports there."""
    missing = []
    for package in sorted(PACKAGE.rglob("*/__init__.py")):
        words = set(re.findall(r"\w+", package.read_text()))
        missing += [str(path) for path in package.parent.glob("[!_]*.py") if path.stem not in words]
    assert missing == []


def test_no_file_names_a_path_of_the_machine_it_was_written_on(tracked: dict[str, str]) -> None:
    paths = {str(ROOT), str(Path.home()), sys.prefix, str(Path(sys.executable).parent)}
    here = {path for path in paths if path.count("/") > 1} - {"/usr/local", "/usr/bin", "/usr/local/bin"}
    found = [
        (name, path) for name, text in tracked.items() for path in here if re.search(re.escape(path) + r"\b", text)
    ]
    assert [each for each in found if each[0] != "tests/test_project_rules.py"] == []


def test_no_file_names_a_package_download_address(tracked: dict[str, str]) -> None:
    address = re.compile(
        r"index-url|pythonhosted\.org|pypi\.org/simple|find-links|\.whl\b.*https?://|https?://\S+\.whl"
    )
    found = [
        (name, match.group())
        for name, text in tracked.items()
        if name != "tests/test_project_rules.py"
        for match in address.finditer(text)
    ]
    assert found == []
