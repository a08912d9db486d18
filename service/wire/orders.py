"""What an operator orders of all workers, and what answers then."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.wire.model import WorkerModel


class ModelOrder(BaseModel):
    """Either `bundle` or `rollback`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    bundle: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = Field(
        None, description="A bundle's folder or archive on the service's disk, or an http, https or s3 URL."
    )
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{64}$")] | None = Field(
        None, description="Of the archive, or of a folder's manifest.json. A URL needs it."
    )
    rollback: bool = Field(False, description="Go back to the bundle that answered before.")


class ModelSwapped(BaseModel):
    """What answers now."""

    folder: str
    name: str
    version: str
    workers: list[WorkerModel]
    seconds: float
    note: str | None = Field(description="Why the next start would serve another one, if it would.")
