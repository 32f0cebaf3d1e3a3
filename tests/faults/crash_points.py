"""Kill this process at a named place, the n-th time it comes there: for launchers only."""

import os
import signal
from collections.abc import Callable
from pathlib import Path


def install(owner: type, method: str, point: str, plan: str, diary: Path) -> None:
    """Let `owner.method` be a crash point if `plan` ("point:n") names it.

    A point that ends in "done" lies behind the call, any other one before it.
    """
    planned, _, turns = plan.partition(":")
    if planned != point:
        return
    real: Callable[..., object] = getattr(owner, method)
    left = int(turns)

    def die() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            with diary.open("a") as file:
                file.write(f"{point}\n")
            os.kill(os.getpid(), signal.SIGKILL)

    def with_crash(*args: object, **kwargs: object) -> object:
        if point.endswith("done"):
            result = real(*args, **kwargs)
            die()
            return result
        die()
        return real(*args, **kwargs)

    setattr(owner, method, with_crash)
