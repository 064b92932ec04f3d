"""Print what pyproject.toml asks for, a requirement a line: the image installs it before our code, as a layer of its own."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
wanted = project["dependencies"] + project["optional-dependencies"]["serve"]
sys.stdout.write("".join(f"{requirement}\n" for requirement in wanted))
