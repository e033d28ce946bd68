"""What the clients of AWS services share: their timeouts, their silence, and how their failures are named."""

import logging
from typing import Final

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

# Two attempts of at most three seconds leave time to answer within RudderStack's ten.
CLIENT_CONFIG: Final = Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 2})
# What any call may raise.
Failure = (BotoCoreError, ClientError)

# At DEBUG botocore logs whole responses, and with them the secrets; at INFO, what nobody asked for.
logging.getLogger("botocore").setLevel(logging.WARNING)


def reason_of(failure: BotoCoreError | ClientError) -> str:
    """Name a failure without its text, which could hold anything."""
    if isinstance(failure, ClientError):
        return str(failure.response.get("Error", {}).get("Code", "unknown"))
    return type(failure).__name__
