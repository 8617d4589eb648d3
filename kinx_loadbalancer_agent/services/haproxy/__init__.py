"""HAProxy: from a state to the running process, and the proof that it is what was asked for."""
