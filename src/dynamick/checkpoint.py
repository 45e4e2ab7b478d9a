"""`dynamick.save`, `dynamick.load` and `read_config`, where scripts have known them: see `dynamick.networks.saving`."""

from dynamick.networks.saving import KEY, load, read_config, save

__all__ = ["KEY", "load", "read_config", "save"]
