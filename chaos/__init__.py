"""Makes everything fail under RudderStack's retry rules, and counts broken promises: `make chaos`."""
