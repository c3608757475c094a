"""A workload: what is asked, in which shares. Read from a YAML file; the same file and seed give the same requests."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictInt
from tritonguard import policy_yaml
from tritonguard.errors import InvalidRequest
from tritonguard.limits import MAX_DEADLINE_S, MAX_NAME_BYTES, MAX_THINK_BUDGET
from tritonguard.models import ContractModel, Line
from tritonguard.request import DEFAULT_DEADLINE_S, Mode

FORMAT = "tritonguard/workload/v1"
FOLDER = Path(__file__).with_name("workloads")
MOST_LENGTH = 1 << 18

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]
Length = Annotated[StrictInt, Field(ge=1, le=MOST_LENGTH)]


def _refuse_no_weight(weights: Any) -> None:
    total = math.fsum(weights)
    if not (0 < total < math.inf):
        raise ValueError("weights without a sum above zero")


class Lengths(ContractModel):
    """How long texts are: exactly one of `fixed`, `uniform`, `median` (log-normal, with `sigma`) and `like`.

    unit: tokens are those of the bundle's tokenizer. sigma: standard deviation of the length's natural logarithm.
    like: a JSONL file, beside the workload's; its prompts' lengths are drawn. least, most: what is drawn beyond them
    becomes them.
    """

    path: ClassVar[str] = "workload.length"

    unit: Literal["characters", "tokens"] = "characters"
    fixed: Length | None = None
    uniform: tuple[Length, Length] | None = None
    median: Length | None = None
    sigma: Annotated[float, Field(ge=0.0, le=5.0)] = 1.0
    like: Line | None = None
    least: Length = 1
    most: Length = MOST_LENGTH

    def check_whole(self) -> None:
        ways = (self.fixed, self.uniform, self.median, self.like)
        if sum(way is not None for way in ways) != 1:
            raise ValueError("give one of fixed, uniform, median and like")
        if self.least > self.most or (self.uniform is not None and self.uniform[0] > self.uniform[1]):
            raise ValueError("the least length is above the most")


class Images(ContractModel):
    """share: of requests, each with one image. repeated: of these, the share whose image was sent before in the same
    measurement; all others are distinct. side: pixels."""

    path: ClassVar[str] = "workload.images"

    share: Share = 0.0
    repeated: Share = 0.0
    side: Annotated[StrictInt, Field(ge=16, le=4096)] = 448


class Policies(ContractModel):
    """Weights. named: of policies that live on the server, by name. custom: of policies that the caller sends, of which
    there are `custom_count`: the built-in list and one further category, another one each."""

    path: ClassVar[str] = "workload.policies"

    built_in: Weight = 1.0
    named: dict[Line, Weight] = Field(default_factory=dict)
    custom: Weight = 0.0
    custom_count: Annotated[StrictInt, Field(ge=1, le=10_000)] = 1

    def check_whole(self) -> None:
        _refuse_no_weight([self.built_in, self.custom, *self.named.values()])


class Workload(ContractModel):
    """length, response_length: None: texts as they are. languages: weights; none given: as the texts come.

    responses: share of requests with an assistant's response. modes: weights. think_budget: tokens, of mode think.
    """

    path: ClassVar[str] = "workload"

    name: Annotated[Line, Field(max_length=MAX_NAME_BYTES)]
    seed: StrictInt = 0
    length: Lengths | None = None
    response_length: Lengths | None = None
    languages: dict[Line, Weight] = Field(default_factory=dict)
    responses: Share = 0.0
    images: Images = Images()
    modes: dict[Mode, Weight] = Field(default_factory=lambda: {Mode.VERDICT: 1.0})
    think_budget: Annotated[StrictInt, Field(ge=1, le=MAX_THINK_BUDGET)] | None = None
    policies: Policies = Policies()
    deadline_s: Annotated[float, Field(gt=0, le=MAX_DEADLINE_S)] = DEFAULT_DEADLINE_S

    def check_whole(self) -> None:
        _refuse_no_weight(self.modes.values())
        if self.languages:
            _refuse_no_weight(self.languages.values())


def read_workload(path: Path) -> Workload:
    """The workload of a file. Raises InvalidRequest, which names the file, and the field or line at fault."""
    try:
        data = policy_yaml.read(path.read_bytes()).data
    except OSError as error:
        raise InvalidRequest(f"{path.name} can't be read: {error.strerror or error}", field="workload") from None
    except InvalidRequest as error:
        raise InvalidRequest(f"{path.name}: {error.message.removeprefix('policy: ')}", field="workload") from None
    if not isinstance(data, dict):
        raise InvalidRequest(f"{path.name}: not a mapping", field="workload")
    values: dict[str, Any] = dict(data)
    if values.pop("schema", FORMAT) != FORMAT:
        raise InvalidRequest(f"{path.name}: schema: this release reads {FORMAT}", field="workload.schema")
    try:
        return Workload.model_validate({"name": path.stem, **values})
    except InvalidRequest as error:
        raise InvalidRequest(f"{path.name}: {error.message}", field=error.field) from None
