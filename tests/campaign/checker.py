"""What has to be true whatever happened, judged from outside.

Knows what a person with a client, the drop folder, ``ps`` and ``ls`` can know: which answers the
two models give, what the status files say, which processes and files there are. Nothing of how
edged does what it does.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

import grpc
from campaign.clients import Question
from campaign.rig import Failure, eventually
from patience import PATIENCE

__all__ = ["Checker", "files_of"]

_FINAL = ("serving since ", "served from ", "rejected: ", "stored; ")
_STEADY_LOOKS = 3


class Checker:
    """Looks at one appliance.

    Args:
        name: of the bundle's file that is dropped, and whose fate is told.
        model: whose answers mean that it serves.
        answers: the model's name by its answer.
    """

    def __init__(
        self, socket: Path, drop: Path, name: str, model: str, ask: Question, answers: dict
    ) -> None:
        self._drop, self._name, self._model = drop, name, model
        self._question, self._answers = ask, answers
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100)]
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=options)

    def close(self) -> None:
        self._channel.close()

    def serves(self) -> str:
        """The name of the model that answers; "?" for a mix, else the status of a refusal."""
        try:
            return str(self._answers.get(self._question.ask(self._channel, 3.0), "?"))
        except grpc.RpcError as error:
            return str(error.code().name)

    def status(self) -> str:
        """What the status file says, without its signature; empty when there is none."""
        with contextlib.suppress(FileNotFoundError):
            text = (self._drop / f"{self._name}.status.txt").read_text()
            return "\n".join(text.splitlines()[:-1])
        return ""

    def told_serving(self) -> bool:
        """Whether the one who dropped the file was told that it serves."""
        return self.status().startswith("serving since ")

    def settled(self, patience: float = PATIENCE) -> str:
        """Wait until the status tells the truth, and goes on doing so; which model serves.

        Raises:
            Failure: it does not; says what is untrue.
        """
        looks: list[str] = []

        def steady() -> bool:
            serves = self.serves()
            looks.append(self._untrue(serves) or f"={serves}")
            return len(looks) >= _STEADY_LOOKS and all(
                look == f"={serves}" for look in looks[-_STEADY_LOOKS:]
            )

        eventually(steady, lambda: f"a true status: {looks[-1]}", patience)
        return looks[-1].removeprefix("=")

    def _untrue(self, serves: str) -> str:
        """What is not as it should be once all is over; empty when all is."""
        status, first = self.status(), (self.status().splitlines() or [""])[0]
        here = (self._drop / self._name).exists()
        if serves not in self._answers.values():
            return f"nobody serves ({serves}); status {first!r}"
        if status and not status.startswith(_FINAL):
            return (
                f"{serves} serves; the status has not ended: {first!r}; the file is there: {here}"
            )
        if here:
            return f"{serves} serves; the file is still there; status {first!r}"
        if status.startswith("serving since ") != (serves == self._model) and status:
            return f"{serves} serves; the status says {first!r}"
        return ""

    def unexplained(self) -> list[str]:
        """Rejected files without a reason, and reasons without a file."""
        rejected = self._drop / "rejected"
        names = {path.name for path in rejected.iterdir()} if rejected.exists() else set()
        found = []
        for name in sorted(names):
            path = rejected / name
            if name.endswith(".reason.txt"):
                if name.removesuffix(".reason.txt") not in names:
                    found.append(f"rejected/{name} explains a file that is not there")
            elif not path.stat().st_size:
                found.append(f"rejected/{name} is empty")
            elif f"{name}.reason.txt" not in names:
                found.append(f"rejected/{name} has no reason")
            else:
                reason = (rejected / f"{name}.reason.txt").read_text()
                # "An error inside edged" is no reason that helps anyone.
                if not reason.startswith("rejected: cannot ") or "inside edged" in reason:
                    found.append(f"rejected/{name} has no reason that says what cannot be done")
        return found

    def dropped_again(self, bundle: Path) -> list[str]:
        """Whether the bundle can be dropped, and serves then."""
        path = self._drop / f"{self._name}.status.txt"
        before = _identity(path)
        partial = self._drop / f"{self._name}.part"
        shutil.copyfile(bundle, partial)
        partial.rename(self._drop / self._name)

        def done() -> bool:
            return (
                not (self._drop / self._name).exists()
                and _identity(path) != before
                and self.status().startswith(_FINAL)
            )

        try:
            eventually(done, lambda: f"the second drop; its status is {self.status()!r}")
        except Failure as failure:
            return [str(failure)]
        serves = self.serves()
        if serves != self._model or not self.told_serving():
            return [f"dropped again, {serves} serves; the status says {self.status()!r}"]
        return []

    def litter(self) -> list[str]:
        """What lies in the drop folder that nobody put there and nobody explains."""
        expected = {f"{self._name}.status.txt", "rejected"}
        return [
            f"{path.name} lies in the drop folder"
            for path in sorted(self._drop.iterdir())
            if path.name not in expected and not re.fullmatch(r"bad\..*", path.name)
        ]


def files_of(folder: Path) -> set[str]:
    """The names of all files below *folder*."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
