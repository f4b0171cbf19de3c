"""Ranges of numbers and forms of names as types, for options and for values from files."""

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1, le=10**9)]
CountOrNone = Annotated[int, Field(ge=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, le=1e9)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
TextLength = Annotated[int, Field(ge=2, le=8192)]
EmbeddingWidth = Annotated[int, Field(ge=1, le=65536)]
Language = Annotated[str, Field(pattern="^[a-z]{2,3}$")]
HubId = Annotated[str, Field(pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*$")]
GitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][\w.-]*(/\w[\w.-]*)*$")]
