"""Live feature flags from ConfigMaps: a change is effective at the next request of every worker, without a restart.

shmroute run --tables examples/flags/tables.yaml -- uvicorn --app-dir examples/flags --workers 4 app:app
"""

import logging
import os
from typing import Annotated, Literal
from zlib import crc32

import msgspec
from fastapi import FastAPI

from shmroute import TableValueError, table
from shmroute.contrib.asgi import lifespan

log = logging.getLogger(__name__)


class Flag(msgspec.Struct, frozen=True):
    """The data of one ConfigMap, whose values are strings."""

    enabled: Literal["true", "false"] = "false"
    percent: Annotated[str, msgspec.Meta(pattern="^([0-9]{1,2}|100)$")] = "100"

    def is_on_for(self, user: str) -> bool:
        """Return whether the flag is on for the user. Raising the percentage keeps it on for everyone who had it."""
        return self.enabled == "true" and crc32(user.encode()) % 100 < int(self.percent)


OFF = Flag()
flags = table("flags", Flag)


def flag(name: str) -> Flag:
    """Return the flag of this name; off if there is none, or if its ConfigMap cannot be read as a flag."""
    try:
        return flags.get(name, OFF)
    except TableValueError as error:  # says table, key and field; the other flags are served
        log.warning("%s", error)
        return OFF


app = FastAPI(lifespan=lifespan)  # waits for the first snapshot


@app.get("/checkout/{user}")
async def checkout(user: str):
    on = flag("new-checkout").is_on_for(user)
    return {"user": user, "checkout": "new" if on else "old", "worker": os.getpid()}
