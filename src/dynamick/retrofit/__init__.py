"""Any trained network made readable: units learnt on its frozen maps, and a head of a few of them a class."""

from dynamick.retrofit.run import retrofit

__all__ = ["retrofit"]
