"""Local web servers of the standard library: what every page of ours needs, whatever it shows."""

from veridical.serving.server import LOOPBACK, Handler, LocalServer, Refused, web_address

__all__ = ["LOOPBACK", "Handler", "LocalServer", "Refused", "web_address"]
