"""Post a document to somebody's HTTP server. No proxy of the environment has a part in it."""

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from kinx_loadbalancer_agent.errors import TimedOut, Unreachable
from kinx_loadbalancer_agent.system import effects

CONNECTIONS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}


def post(
    url: str, document: Mapping[str, Any], timeout_seconds: float, token: str | None = None
) -> None:
    """Send *document* as JSON to *url*, which has a port; the body of the answer is not read.

    timeout_seconds: of each silence. Looking the name up, and a server that trickles, may take
    longer: the caller bounds the whole.
    token: shown as a bearer token; no error repeats what was sent or answered.
    Raises TimedOut, or Unreachable if there is no connection, no HTTP or no 2xx at its end.
    """
    where = urlsplit(url)
    connection = CONNECTIONS[where.scheme](
        where.hostname or "", where.port, timeout=timeout_seconds
    )
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    try:
        with effects.step("post"):
            connection.request("POST", where.path, json.dumps(document), headers)
            status = connection.getresponse().status
    except TimeoutError as error:
        raise TimedOut(url, timeout_seconds) from error
    except OSError as error:
        raise Unreachable(url, error.strerror or type(error).__name__) from error
    except http.client.HTTPException as error:
        raise Unreachable(url, f"it does not speak HTTP ({type(error).__name__})") from error
    finally:
        connection.close()
    if not 200 <= status < 300:
        raise Unreachable(url, f"it answers {status}")
