"""`deploy/`: no container engine runs here, so its files are held against what they name."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement

from everyspan.cli.serve import serve

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
SERVICE: dict[str, Any] = COMPOSE["services"]["everyspan"]


def command_of(keyword: str) -> list[str]:
    found = re.search(rf"^{keyword} (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found
    command: list[str] = json.loads(found[1])
    return command


@pytest.mark.parametrize("command", [command_of("CMD"), SERVICE["command"]])
def test_the_command_is_one_that_serve_takes(command: list[str]) -> None:
    assert command_of("ENTRYPOINT") == ["everyspan"]
    assert command[0] == "serve"
    params = serve.make_context("serve", command[1:]).params
    assert params["host"] == "0.0.0.0"
    assert (params["port"], params["otlp_port"]) == (5003, 4318)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored


def test_every_version_of_the_lock_is_a_constraint() -> None:
    """Without the hashes, which pip refuses beside a folder."""
    found = re.search(r"(sed -n .*?) requirements\.lock >", DOCKERFILE)
    assert found
    lines = subprocess.run(
        ["sh", "-c", f"{found[1]} requirements.lock"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    names = {Requirement(line).name for line in lines}
    lock = (ROOT / "requirements.lock").read_text()
    assert names == set(re.findall(r"^([a-z0-9][^=\s]*)==", lock, re.MULTILINE))


def test_it_runs_as_nobody_in_particular_and_writes_nowhere_but_its_volume() -> None:
    assert re.search(r"^USER [1-9]\d*$", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^VOLUME /data$", DOCKERFILE, re.MULTILINE)
    assert "XDG_DATA_HOME=/data" in DOCKERFILE
    assert SERVICE["read_only"] is True
    assert SERVICE["volumes"] == ["traces:/data"]
    assert list(COMPOSE["volumes"]) == ["traces"]
    assert SERVICE["cap_drop"] == ["ALL"]


def test_only_this_machine_reaches_the_published_ports() -> None:
    assert SERVICE["ports"] == ["127.0.0.1:5003:5003", "127.0.0.1:4318:4318"]


def test_the_health_check_is_python() -> None:
    check = command_of(r"HEALTHCHECK .*CMD")
    assert check[:2] == ["python", "-c"]
    compile(check[2], "healthcheck", "exec")


def test_the_paths_of_the_build_are_from_its_context() -> None:
    build = SERVICE["build"]
    context = (ROOT / "deploy" / build["context"]).resolve()
    assert (context / build["dockerfile"]).is_file()
    assert context == ROOT
