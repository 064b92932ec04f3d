"""Exit with 0 if the worker or coordinator of this container answers on its metrics port, else with 1 and the reason.

The broker is not asked for: a worker that waits for its broker is healthy, and a restart would not mend the broker.
"""

import os
import sys
import urllib.request

port = int(os.environ.get("NEUROSCAN_METRICS_PORT") or 0)
if not port:
    sys.exit("NEUROSCAN_METRICS_PORT is 0: nothing to ask; give a port, or disable the health check")
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the site has
try:
    with direct.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        if b"neuroscan_" not in answer.read():
            sys.exit(f"port {port} shows no numbers of ours")
except OSError as error:
    sys.exit(f"port {port} does not answer: {error}")
