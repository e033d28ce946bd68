"""The whole product on one machine, of real parts: no AWS account, no Docker, no network."""
