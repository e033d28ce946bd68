"""Lets everything fail under RudderStack's retry rules, and counts: `make chaos`."""
