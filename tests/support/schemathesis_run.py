"""Run schemathesis over a live server with a fake backend: ``python tests/support/schemathesis_run.py [OPTION...]``."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.serve_world import fake_service, live

CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance"
"""The other checks judge which requests a schema allows, and a schema cannot say which names and objectives exist."""


def main(options: list[str]) -> int:
    """Start the server, give its schema to schemathesis and return the exit code of that; 1 for faults."""
    logging.disable(logging.WARNING)  # one line a request
    with tempfile.TemporaryDirectory() as folder, live(fake_service(Path(folder))) as address:
        command = ["schemathesis.cli", "run", f"{address}/openapi.json", "--checks", CHECKS]
        fixed = ["--generation-database", "none", "--continue-on-failure", *options]
        return subprocess.run([sys.executable, "-m", *command, *fixed], check=False, cwd=folder).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
