"""``python -m kinx_loadbalancer_agent``: the same as the console script."""

from kinx_loadbalancer_agent.cli import main

main()
