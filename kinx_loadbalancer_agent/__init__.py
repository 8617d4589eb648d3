"""Node agent for software load balancers: LBaaS documents in, a proven HAProxy out."""

__version__ = "0.1.0"
