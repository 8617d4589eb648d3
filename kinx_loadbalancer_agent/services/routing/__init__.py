"""The BGP speaker of this node."""
