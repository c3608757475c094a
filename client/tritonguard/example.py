"""What an example is, what a right verdict on it looks like, and how another one differs from that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tritonguard.label import Safety
from tritonguard.policy import OnError, Policy
from tritonguard.request import DEFAULT_DEADLINE_S, GuardRequest, Mode
from tritonguard.verdict import Verdict


@dataclass(frozen=True)
class Expected:
    """The verdict that an example shall get from the embedded guard.

    user, response: the label's two sides; None: no response is judged.
    names: of them at least one must be among the label's categories; (): nothing is asked of the categories.
    judged, flagged_by: the policy's parts, as in the record and in the label; None: whatever they are.
    indeterminate: the label's reason; None: the label is judged.
    text_only: the user label of the texts alone, where the label itself is about images.
    reasoning_source: who wrote the trace that must be there; None: there is no trace.
    """

    user: Safety
    response: Safety | None = None
    names: tuple[str, ...] = ()
    judged: tuple[str, ...] | None = None
    flagged_by: tuple[str, ...] | None = None
    indeterminate: str | None = None
    text_only: Safety | None = None
    reasoning_source: str | None = None

    @property
    def sides(self) -> tuple[Safety, ...]:
        """The user's side, then the response's where one is judged."""
        return (self.user,) if self.response is None else (self.user, self.response)

    def differences(self, verdict: Verdict) -> tuple[str, ...]:
        """`field: what came instead` for each field that is not as expected; () for a right verdict."""
        label = verdict.label
        text_only = label.text_only.user_safety if label.text_only else None
        found = {
            "user": (label.user_safety is self.user, label.user_safety.value),
            "response": (label.response_safety is self.response, _or_none(label.response_safety)),
            "categories": (not self.names or bool(set(self.names) & set(label.categories or ())), label.categories),
            "judged": (self.judged in (None, verdict.record.judged), verdict.record.judged),
            "flagged_by": (self.flagged_by in (None, label.flagged_by), label.flagged_by),
            "reason": (label.indeterminate_reason == self.indeterminate, label.indeterminate_reason),
            "text_only": (text_only is self.text_only, _or_none(text_only)),
            "reasoning": (label.reasoning_source == self.reasoning_source, label.reasoning_source),
        }
        return tuple(f"{field}: {_told(came)}" for field, (is_right, came) in found.items() if not is_right)


@dataclass(frozen=True)
class Example:
    """id: stable name. language: ISO 639-1 code. note: what it shows or tries.

    policy: None: the built-in one. policy_name: of one on the server, in its place. image: name of a picture
    that lies beside this module; None: no image.
    """

    id: str
    language: str
    prompt: str
    expected: Expected
    note: str
    response: str | None = None
    mode: Mode = Mode.VERDICT
    policy: Policy | None = None
    policy_name: str | None = None
    image: str | None = None

    def request(self, *, deadline_s: float = DEFAULT_DEADLINE_S, on_error: OnError | None = None) -> GuardRequest:
        """What is sent for it. on_error: in the place of its policy's; a policy on the server keeps its own."""
        policy = self.policy or Policy()
        if on_error is not None and self.policy_name is None:
            policy = policy.model_copy(update={"on_error": on_error})
        return GuardRequest(
            prompt=self.prompt,
            response=self.response,
            images=() if self.image is None else (Path(__file__).with_name(self.image).read_bytes(),),
            policy=policy,
            policy_name=self.policy_name,
            mode=self.mode,
            deadline_s=deadline_s,
        )


def _or_none(safety: Safety | None) -> str | None:
    return None if safety is None else safety.value


def _told(came: str | tuple[str, ...] | None) -> str:
    return (came if isinstance(came, str) else ", ".join(came or ())) or "none"
