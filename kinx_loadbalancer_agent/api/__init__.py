"""HTTP: documents in, intents on, answers out. Nothing here touches the machine."""
