"""The operator's switches over policies, and their way to the models: by environment variables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tritonguard.errors import InvalidRequest

from preprocessing.policies import PolicyStore
from serving.adapter import (
    BUILT_IN_FLOOR,
    CALLER_POLICIES_VARIABLE,
    FLOOR_VARIABLE,
    POLICIES_VARIABLE,
    floor_policy,
)
from serving.errors import LaunchError


class PoliciesRefused(LaunchError):
    """The folder of policies or the floor is not what it should be."""


@dataclass(frozen=True)
class PolicySwitches:
    """folder: of the named policies; None: none. floor: `built-in` or a file's name; None: no floor.

    callers: whether requests may bring policies of their own. On, because the launcher's server can only be
    reached from this machine, where whoever calls it could as well start one; a server that others reach needs
    it off, or a floor.
    """

    folder: Path | None = None
    floor: str | None = None
    callers: bool = True

    def environment(self) -> dict[str, str]:
        """The variables for the models: all three, so that none is inherited from the shell."""
        floor = self.floor or ""
        return {
            POLICIES_VARIABLE: str(self.folder.resolve()) if self.folder else "",
            FLOOR_VARIABLE: floor if floor in ("", BUILT_IN_FLOOR) else str(Path(floor).resolve()),
            CALLER_POLICIES_VARIABLE: "1" if self.callers else "0",
        }

    def refuse_broken(self) -> None:
        """Raises PoliciesRefused for a folder, a file or a floor that can't be served.

        Once it serves, a broken file leaves the policy before it in force; at the start there is none before it.
        """
        problems: list[tuple[str, str]] = []
        try:
            floor = floor_policy(self.floor or "")
            PolicyStore(
                self.folder, floor=floor, allow_callers=self.callers, on_problem=lambda *told: problems.append(told)
            )
        except InvalidRequest as error:
            raise PoliciesRefused(f"the floor {self.floor}: {error}") from error
        except OSError as error:
            raise PoliciesRefused(f"the floor {self.floor} cannot be read: {error.strerror}") from error
        if problems:
            told = "; ".join(f"{self.folder}/{file}: {message}" for file, message in problems)
            raise PoliciesRefused(f"{told} (`tritonguard policy lint` looks closer)")
