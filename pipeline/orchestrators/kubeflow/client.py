"""What is asked of a Kubeflow Pipelines 2 API server, over HTTP.

Kubeflow's own client is not used: it does not install beside the libraries that run the pipeline,
and four calls are all there is to it.
"""

import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from bert_tfx.schema.errors import InputError

SUCCEEDED = "SUCCEEDED"
_ENDED = (SUCCEEDED, "FAILED", "CANCELED", "SKIPPED")
_API = "/apis/v2beta1"
_SECONDS = 30.0


class ServerError(Exception):
    """The server cannot be reached, or fails."""


class KubeflowClient:
    """An API server.

    Args:
        host: Its URL, as a browser is given it: `http://localhost:8080`.
        token: The token to show, or None.

    Raises:
        InputError: If the URL is none, or the token would be sent unencrypted.
    """

    def __init__(self, host: str, token: str | None = None) -> None:
        parts = urllib.parse.urlsplit(host)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"--host {host}: must be a URL that begins with http:// or https://")
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise InputError("--token-file: must hold one token, without spaces")
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if token and parts.scheme == "http" and not local:
            raise InputError(f"--host {host}: a token is sent over https:// only")
        self._host = host.rstrip("/")
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def check(self, namespace: str | None) -> None:
        """Asks whether the server is there.

        Args:
            namespace: Where runs are to be; one that serves several users wants it.

        Raises:
            InputError: If it wants a namespace, or does not let us in.
            ServerError: If it cannot be reached.
        """
        found = self._call("GET", "/healthz")
        if found.get("multi_user") and namespace is None:
            raise InputError(
                f"{self._host}: serves several users: --namespace names yours, or your team's"
            )

    def experiment(self, name: str, namespace: str | None) -> str:
        """Returns the id of an experiment; one that is not there is made.

        Args:
            name: Its name.
            namespace: Where it is.

        Raises:
            InputError: If it may not be made.
            ServerError: If the server fails.
        """
        wanted = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        query = {"filter": json.dumps({"predicates": [wanted]})}
        if namespace is not None:
            query["namespace"] = namespace
        found = self._call("GET", f"/experiments?{urllib.parse.urlencode(query)}")
        for experiment in found.get("experiments", []):
            if experiment.get("display_name") == name:
                return str(experiment["experiment_id"])
        body = {"display_name": name}
        if namespace is not None:
            body["namespace"] = namespace
        return str(self._call("POST", "/experiments", body)["experiment_id"])

    def submit(
        self,
        pipeline: Mapping[str, Any],
        platform: Mapping[str, Any],
        *,
        name: str,
        experiment: str,
        parameters: Mapping[str, Any],
        service_account: str | None = None,
    ) -> str:
        """Starts a run and returns its id.

        Args:
            pipeline: The PipelineSpec.
            platform: The PlatformSpec.
            name: What the run is called.
            experiment: The id of the experiment that it belongs to.
            parameters: Values of the pipeline's parameters that shall not have their default.
            service_account: Kubernetes' account of the containers; by default the cluster's.

        Raises:
            InputError: If the server does not take the pipeline.
            ServerError: If it fails.
        """
        both = {"pipeline_spec": pipeline, "platform_spec": platform}
        body: dict[str, Any] = {
            "display_name": name,
            "experiment_id": experiment,
            "pipeline_spec": both if platform else pipeline,
            "runtime_config": {"parameters": parameters},
        }
        if service_account is not None:
            body["service_account"] = service_account
        return str(self._call("POST", "/runs", body)["run_id"])

    def states(self, run_id: str, every: float = 10.0) -> Iterator[tuple[str, dict[str, str]]]:
        """Yields the state of a run until it has ended, and those of its tasks.

        Args:
            run_id: The run.
            every: Seconds between two questions.

        Raises:
            InputError: If it is gone.
            ServerError: If the server fails.
        """
        while True:
            run = self._call("GET", f"/runs/{run_id}")
            details = (run.get("run_details") or {}).get("task_details") or []
            tasks = {
                one["display_name"]: one.get("state", "")
                for one in details
                if "display_name" in one
            }
            state = str(run.get("state", "PENDING"))
            yield state, tasks
            if state in _ENDED:
                return
            time.sleep(every)

    def url(self, run_id: str) -> str:
        """Returns the address of a run's page."""
        return f"{self._host}/#/runs/details/{run_id}"

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self._host}{_API}{path}",
            method=method,
            data=None if body is None else json.dumps(body, ensure_ascii=False).encode(),
            headers=self._headers,
        )
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            raise _refusal(self._host, error) from error
        except ValueError as error:
            raise InputError(
                f"{self._host}: is no API server of Kubeflow Pipelines 2, or one behind a page to "
                "log in at: it does not answer in JSON; --token-file names a token that lets in"
            ) from error
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            raise ServerError(f"{self._host}: cannot be reached: {reason}") from error
        if not isinstance(found, dict):
            raise ServerError(f"{self._host}{_API}{path}: answers {found!r}, which is no object")
        return found


def _refusal(host: str, error: urllib.error.HTTPError) -> Exception:
    """Says what the server answered instead."""
    try:
        said = json.load(error)
        reason = str(said.get("message") or said.get("error") or said)
    except (ValueError, AttributeError):
        reason = str(error.reason)
    if error.code in (401, 403):
        what = "does not know who asks" if error.code == 401 else "does not allow it"
        return InputError(f"{host}: {what} ({error.code}): {reason}; --token-file names a token")
    if error.code == 404:
        return InputError(f"{host}: is no API server of Kubeflow Pipelines 2 (404): {reason}")
    if error.code < 500:
        return InputError(f"{host}: does not take it ({error.code}): {reason}")
    return ServerError(f"{host}: fails ({error.code}): {reason}")
