"""Pack the Claude Desktop bundle: ``python clients/desktop/build.py [FOLDER]`` (default: dist).

It holds the manifest, the icon (a picture of ``icon.svg``), the program that Claude Desktop starts, this checkout as a
wheel, and a project file with which uv makes the environment: the wheel's dependencies come from PyPI at the first
start, at the versions of requirements/lock.txt.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
_EPOCH = (2020, 1, 1, 0, 0, 0)
_PROJECT = """\
[project]
name = "mlgym-mcp-bundle"
version = "{version}"
requires-python = ">=3.11"
dependencies = ["mlgym-mcp"]

[tool.uv]
package = false
constraint-dependencies = [
{constraints}
]

[tool.uv.sources]
mlgym-mcp = {{ path = "{wheel}" }}
"""


def build_wheel(folder: Path) -> Path:
    """Build this checkout's wheel into a folder, without a network."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder.resolve())]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the wheel could not be built: {done.stdout}{done.stderr}")
    (wheel,) = folder.glob("mlgym_mcp-*.whl")
    return wheel


def project(wheel: Path, version: str) -> str:
    """Return the bundle's pyproject.toml."""
    lines = (ROOT / "requirements" / "lock.txt").read_text().splitlines()
    pins = [re.sub(r"\s+", " ", line.strip()) for line in lines if line.strip() and not line.startswith(("#", "-"))]
    constraints = "\n".join(f"  {json.dumps(pin)}," for pin in pins)
    return _PROJECT.format(version=version, constraints=constraints, wheel=wheel.name)


def build(folder: Path) -> Path:
    """Pack the bundle into a folder and return it; the same checkout always gives the same bytes."""
    manifest = (HERE / "manifest.json").read_bytes()
    version = json.loads(manifest)["version"]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build_wheel(Path(scratch))
        files = {
            "LICENSE": (ROOT / "LICENSE").read_bytes(),
            "icon.png": (HERE / "icon.png").read_bytes(),
            "manifest.json": manifest,
            wheel.name: wheel.read_bytes(),
            "pyproject.toml": project(wheel, version).encode(),
            "server.py": (HERE / "server.py").read_bytes(),
        }
    bundle = folder / f"mlgym-mcp-{version}.mcpb"
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            facts = zipfile.ZipInfo(name, _EPOCH)
            facts.external_attr = 0o644 << 16
            facts.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(facts, data)
    return bundle


if __name__ == "__main__":
    print(build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist"))
