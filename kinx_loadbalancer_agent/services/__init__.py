"""What the agent drives: a room for each service, and the templates they share."""
