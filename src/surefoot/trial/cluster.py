"""Arms on a cluster by Ray: the optional extra `surefoot[ray]`.

Ray schedules; each task runs an arm in a process of its own, as on this machine. The project's
source has to be found at the same path on every node, as Ray's working_dir or a shared disk has it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from surefoot.trial.arm import Arm, Spec
from surefoot.trial.runner import Processes


class Cluster:
    """Arms as tasks of Ray, on the cluster that RAY_ADDRESS names or on this machine.

    How many run side by side is Ray's affair. Raises ImportError with the command to install it
    where Ray is missing.
    """

    def __init__(self) -> None:
        try:
            import ray  # pyrefly: ignore[missing-import]
        except ImportError:
            raise ImportError(
                "expected Ray for trials on a cluster, found none: pip install 'surefoot[ray]'"
            ) from None
        self._ray: Any = ray
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def run(self, specs: Sequence[Spec], deadline: float) -> Iterator[tuple[int, Arm]]:
        """As they end, until `deadline` (time.monotonic), when those under way are cancelled."""
        ray = self._ray
        task = ray.remote(num_cpus=1, max_retries=0)(_arm)
        left = max(deadline - time.monotonic(), 0.0)
        waiting = {task.remote(spec.to_json(), left): k for k, spec in enumerate(specs)}
        try:
            while waiting:
                timeout = max(deadline - time.monotonic(), 0.0)
                ready, _ = ray.wait(list(waiting), num_returns=1, timeout=timeout)
                if not ready:
                    return
                for one in ready:
                    place, answer = waiting.pop(one), ray.get(one)
                    if answer is not None:
                        yield place, Arm.from_json(answer)
        finally:
            for one in waiting:
                ray.cancel(one, force=True)


def _arm(spec: dict[str, Any], seconds: float) -> dict[str, Any] | None:
    """One arm on a node, as JSON; None where its time ran out."""
    until = time.monotonic() + seconds
    for _, arm in Processes().run([Spec.from_json(spec)], until):
        return arm.to_json()
    return None
