"""What the parts of a record are made of: numbers that a table can count with, and texts that it can print."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Part(BaseModel):
    """A part of a record; what is not named is kept as it is."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    def plain(self) -> dict[str, Any]:
        """Returns what was set, as dictionaries, lists, strings and numbers."""
        return self.model_dump(exclude_unset=True)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds characters that cannot be printed")
    return text


def _time(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("no time in the form of ISO 8601") from None
    return text


Count = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(gt=0, lt=2**63)]
Number = Annotated[float, Field(ge=-1e100, le=1e100)]  # its square is still a number
Share = Annotated[float, Field(ge=-1, le=1)]  # a score as a fraction; correlations go below 0
Text = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_printable)]
Time = Annotated[str, AfterValidator(_time)]
