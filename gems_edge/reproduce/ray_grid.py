"""The cells of a grid as tasks of a Ray cluster."""

import dataclasses
import os
import secrets
import socket
import warnings
from typing import Any

from gems_edge.control_groups import available_cores
from gems_edge.errors import UserError
from gems_edge.reproduce.job import CellJob, Outcome, one_thread, own_sigterm, run_cell

# Seconds until a machine that does not answer counts as not there.
CONNECT_TIMEOUT = 10
PATIENCE = {
    "RAY_gcs_rpc_server_connect_timeout_s": str(CONNECT_TIMEOUT), "RAY_py_gcs_connect_timeout_s": str(CONNECT_TIMEOUT),
    "RAY_NUM_REDIS_GET_RETRIES": "1",
}  # fmt: skip
# Seconds that cancelled tasks have to end their programs (torchrun gives its workers 30).
CANCEL_TIMEOUT = 45
PORTS = {"ray://": 10001, "": 6379}


class RayExecutor:
    """One Ray task per cell, which runs the same function as the local executor does.

    The grid's directory must be on storage that every node reaches under the same path, and every node needs
    gems-edge in the same version. `address` "local" starts a Ray of its own on this machine and ends it again.

    Raises UserError when Ray is not installed, no cluster answers at `address`, or no node of it is large enough.
    """

    def __init__(self, address: str, jobs: int | None, processes: int):
        # Ray reads these when it is imported. Nothing is sent anywhere; an address without an answer is given up soon.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        if address != "local":
            for variable, value in PATIENCE.items():
                os.environ.setdefault(variable, value)
        elif not (os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")):
            # Ray would otherwise make a secret for its own processes and leave it in ~/.ray. It stays in the
            # environment, because Ray keeps it too as long as this process lives.
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        try:
            import ray
        except ModuleNotFoundError:
            raise UserError("--ray needs Ray: pip install 'gems-edge[ray]'") from None
        self._ray: Any = ray
        self._jobs, self._processes = jobs, processes
        self._running: dict[Any, str] = {}
        if ray.is_initialized():
            raise RuntimeError("Ray is in use in this process already")
        with own_sigterm():
            self._connect(address)
        try:
            self._start()
        except BaseException:
            ray.shutdown()
            raise

    def _connect(self, address: str) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address == "local":
            cores = max(available_cores(), (self._jobs or 1) * self._processes)
            self._ray.init("local", num_cpus=cores, include_dashboard=False, **quiet)
            return
        missing = f"no Ray cluster answers at {address}"
        hint = "start one with `ray start --head`, or let --ray local start one for this call"
        if address != "auto":
            try:
                _knock(address)
            except ValueError:
                raise UserError(
                    f"{address!r} is no address of a Ray cluster; give auto, local, HOST:PORT or ray://HOST:PORT"
                ) from None
            except OSError as error:
                raise UserError(f"{missing} ({error.strerror or error}); {hint}") from None
        try:
            with warnings.catch_warnings(action="ignore"):
                self._ray.init(address, **quiet)
        except (ConnectionError, RuntimeError, TimeoutError, ValueError, self._ray.exceptions.RayError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
            if address != "auto":  # something listens there; to an address that was given Ray shows no token unasked
                hint = (
                    "is this Ray's port, is its version the one here, and, if the cluster has an access token, "
                    "are RAY_AUTH_MODE=token and RAY_AUTH_TOKEN set here?"
                )
            raise UserError(f"{missing} ({reason}); {hint}") from None

    def _start(self) -> None:
        gpus = any(node.get("GPU", 0) for node in self._nodes())
        self._kind = "GPU" if gpus else "CPU"
        largest = int(max((node.get(self._kind, 0) for node in self._nodes()), default=0))
        if largest < self._processes:
            raise UserError(
                f"{self._processes} processes a cell, but the largest machine of the Ray cluster has {largest} "
                f"{self._kind}s; lower the processes"
            )
        self._environment = {} if gpus else one_thread()
        # A task is repeated when its machine is lost, not when its program fails: that is an outcome.
        self._task = self._ray.remote(run_cell)
        self._needs = {"num_cpus": self._processes, "num_gpus": self._processes if gpus else 0, "max_retries": 3}

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def slots(self) -> int:
        """Counted anew each time: machines may join and leave."""
        room = sum(int(min(node.get(self._kind, 0), node.get("CPU", 0)) // self._processes) for node in self._nodes())
        return max(1, min(room, self._jobs or room))

    def submit(self, job: CellJob) -> None:
        job = dataclasses.replace(job, environment=self._environment)
        self._running[self._task.options(name=job.name, **self._needs).remote(job)] = job.name

    def wait(self) -> tuple[str, Outcome]:
        (ended,), _ = self._ray.wait(list(self._running), num_returns=1)
        name = self._running.pop(ended)
        try:
            return name, self._ray.get(ended)
        except self._ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return name, Outcome(None, f"Ray: {lines[-1][:300] if lines else type(error).__name__}")

    def close(self) -> None:
        """Cancelling raises KeyboardInterrupt in a task, which then ends its program."""
        try:
            for task in self._running:
                self._ray.cancel(task)
            if self._running:
                self._ray.wait(list(self._running), num_returns=len(self._running), timeout=CANCEL_TIMEOUT)
        finally:
            self._ray.shutdown()


def _knock(address: str) -> None:
    """OSError when nobody listens at HOST:PORT or ray://HOST:PORT: Ray itself would try for a minute and more."""
    scheme = "ray://" if address.startswith("ray://") else ""
    host, colon, port = address.removeprefix(scheme).partition("/")[0].rpartition(":")
    if not colon:
        host, port = port, str(PORTS[scheme])
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT).close()
